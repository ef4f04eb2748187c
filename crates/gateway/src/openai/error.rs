//! Errors in OpenAI's form.

use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use crate::{
    body::{Answer, document},
    port::PortError,
};

/// Tells the official clients whether to send a request again by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The product's own stable code.
const OWN_CODE: HeaderName = HeaderName::from_static("x-tributary-code");

/// Why a prompt isn't answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The request is malformed, or asks for what isn't offered.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what is possible.
        message: String,
        /// The field.
        param: Option<&'static str>,
    },
    /// Nobody offers this model.
    #[error("the model '{model}' is not offered by anybody that is known; see /v1/models")]
    UnknownModel {
        /// The model.
        model: String,
    },
    /// The prompt and the answer don't fit.
    #[error("the model's context has {limit} tokens, prompt and answer take {wanted}: shorten one of them")]
    ContextLength {
        /// Tokens asked for.
        wanted: u64,
        /// Tokens possible.
        limit: u64,
    },
    /// Nothing pays for it.
    #[error("{message}")]
    PaymentRequired {
        /// What to do.
        message: String,
    },
    /// The wallet holds too little.
    #[error("the wallet has {available} base units, {needed} are needed: deposit more")]
    InsufficientFunds {
        /// Base units available.
        available: u128,
        /// Base units needed.
        needed: u128,
    },
    /// The user's own limit stops it.
    #[error("the cap {cap} of {limit} is reached: {spent} are spent; raise it or wait")]
    CapReached {
        /// Which cap, as the command line names it.
        cap: &'static str,
        /// Its value.
        limit: u128,
        /// What counts against it.
        spent: u128,
    },
    /// The provider went away or broke off.
    #[error("the provider is gone: {reason}")]
    ProviderGone {
        /// How it showed.
        reason: String,
    },
    /// The provider answered, but not with an answer to the prompt.
    #[error("the provider failed: {reason}")]
    ProviderFailed {
        /// What it said.
        reason: String,
    },
    /// It may work in a moment.
    #[error("not possible now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// There is no such path.
    #[error("there are GET models, GET models/{{id}} and POST chat/completions")]
    NoSuchPath,
    /// The path takes another method.
    #[error("{path} takes {allowed}")]
    Method {
        /// The path.
        path: &'static str,
        /// The method.
        allowed: &'static str,
    },
    /// This process failed.
    #[error("the gateway failed: {reason}")]
    Internal {
        /// How.
        reason: String,
    },
}

impl ChatError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "TRB-G101",
            Self::UnknownModel { .. } => "TRB-G102",
            Self::ContextLength { .. } => "TRB-G103",
            Self::PaymentRequired { .. } => "TRB-G104",
            Self::InsufficientFunds { .. } => "TRB-G105",
            Self::CapReached { .. } => "TRB-G106",
            Self::ProviderGone { .. } => "TRB-G107",
            Self::ProviderFailed { .. } => "TRB-G108",
            Self::Unavailable { .. } => "TRB-G109",
            Self::NoSuchPath => "TRB-G110",
            Self::Method { .. } => "TRB-G111",
            Self::Internal { .. } => "TRB-G112",
        }
    }

    /// The HTTP status that it is answered with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel { .. } | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::PaymentRequired { .. } | Self::InsufficientFunds { .. } => StatusCode::PAYMENT_REQUIRED,
            Self::CapReached { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::ProviderGone { .. } | Self::ProviderFailed { .. } => StatusCode::BAD_GATEWAY,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// OpenAI's `type` and `code` for it.
    const fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Invalid { .. } => ("invalid_request_error", "invalid_value"),
            Self::UnknownModel { .. } => ("invalid_request_error", "model_not_found"),
            Self::ContextLength { .. } => ("invalid_request_error", "context_length_exceeded"),
            Self::PaymentRequired { .. } => ("insufficient_quota", "payment_required"),
            Self::InsufficientFunds { .. } => ("insufficient_quota", "insufficient_funds"),
            Self::CapReached { .. } => ("insufficient_quota", "cap_reached"),
            Self::ProviderGone { .. } => ("api_error", "provider_gone"),
            Self::ProviderFailed { .. } => ("api_error", "provider_failed"),
            Self::Unavailable { .. } => ("api_error", "unavailable"),
            Self::NoSuchPath => ("invalid_request_error", "unknown_url"),
            Self::Method { .. } => ("invalid_request_error", "method_not_supported"),
            Self::Internal { .. } => ("server_error", "internal_error"),
        }
    }

    pub(crate) const fn param(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { param, .. } => *param,
            Self::UnknownModel { .. } => Some("model"),
            Self::ContextLength { .. } => Some("messages"),
            _ => None,
        }
    }

    /// The document that tells it.
    pub(super) fn body(&self) -> Value {
        let (kind, code) = self.names();
        form(&format!("{self} [{}]", self.code()), kind, code, self.param())
    }

    /// The answer that tells it.
    pub(super) fn answer(&self) -> Answer {
        // Sent again without asking, a prompt is paid again: that is for the user to decide.
        let again = matches!(self, Self::Unavailable { .. });
        finish(document(self.status(), &self.body()), self.code(), again)
    }
}

/// A refusal of the port in OpenAI's form.
pub(super) fn of_port(error: &PortError) -> Answer {
    let (kind, code) = match error {
        PortError::Unauthorised => ("invalid_request_error", "invalid_api_key"),
        PortError::NotFound { .. } => ("invalid_request_error", "unknown_url"),
        PortError::TooLarge { .. } => ("invalid_request_error", "request_too_large"),
        _ => ("invalid_request_error", "request_refused"),
    };
    let body = form(&format!("{error} [{}]", error.code()), kind, code, None);
    finish(document(error.status(), &body), error.code(), false)
}

fn form(message: &str, kind: &str, code: &str, param: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "code": code, "param": param } })
}

fn finish(mut answer: Answer, own: &'static str, again: bool) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(if again { "true" } else { "false" }));
    headers.insert(OWN_CODE, HeaderValue::from_static(own));
    answer
}
