//! What an offer says of its inference: typed properties and prices.

use serde::{Deserialize, Serialize};
use tributary_market::offer::{Attributes, FamilyAttributes, Service, ServiceId, UsePrice, UseUnit};
use tributary_market::property::{FamilyName, Properties, PropertyValue};
use tributary_market::sealed::EncryptionKey;
use tributary_market::wire::{self, WireError};

use crate::api::ChatRequest;

/// The family's name in offers.
pub const FAMILY: &str = "inference";
/// The usual id of the service.
pub const SERVICE: &str = "inference";
/// Tickets that one proof holds at most.
pub const MAX_TICKETS: u64 = 4;
/// Metered tokens that each message of a prompt adds to those of its text.
pub const TOKENS_A_MESSAGE: u64 = 4;
/// Bytes of a prompt's text that count as one token.
pub const BYTES_A_TOKEN: u64 = 4;

/// A model as it is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// The model's id.
    pub model: String,
    /// How its weights are quantised, "none" if they aren't.
    pub quantisation: String,
    /// Tokens of prompt and answer together at most.
    pub context: u32,
    /// What it runs on, in the operator's words.
    pub hardware: String,
    /// Whether it is in memory and answers without loading first.
    pub loaded: bool,
    /// Tokens of an answer at most.
    pub max_output: u32,
    /// Tokens of an answer that one payment pays for.
    pub slice: u32,
    /// Tickets of 1000 metered tokens of a prompt; 0 when only answers are charged.
    pub tickets_in: u32,
    /// Tickets of 1000 tokens of an answer, at least 1.
    pub tickets_out: u32,
    /// Whether direct streams are served besides relay.
    pub direct: bool,
    /// The key that prompts are sealed to.
    #[serde(skip)]
    pub key: Option<EncryptionKey>,
}

impl Sale {
    /// Reads a service's entry in an offer.
    ///
    /// # Errors
    /// [`WireError`] when it is no inference, or a property is absent or out of range.
    pub fn read(service: &Service) -> Result<Self, WireError> {
        let Attributes::Family(family) = &service.attributes else {
            return Err(WireError::Invalid { field: "attributes", reason: "of another family".into() });
        };
        if family.name.as_str() != FAMILY {
            let reason = format!("of the family {}", family.name);
            return Err(WireError::Invalid { field: "attributes", reason });
        }
        let properties = &family.properties;
        let text =
            |name: &'static str| properties.text(name).map(str::to_owned).ok_or(WireError::Missing { field: name });
        let number = |name: &'static str| {
            let value = properties.number(name).ok_or(WireError::Missing { field: name })?;
            let value = wire::in_range(name, value, 1, u32::MAX.into())?;
            Ok::<_, WireError>(u32::try_from(value).unwrap_or(u32::MAX))
        };
        let price = |unit| match service.price_of(unit) {
            Some(UsePrice { quantity: 1, tickets, .. }) => Ok(tickets),
            Some(_) => Err(WireError::Invalid { field: "uses", reason: "priced by more than 1000 tokens".into() }),
            None => Ok(0),
        };
        let key = hex::decode(text("key")?)
            .map_err(|_| WireError::Invalid { field: "key", reason: "not hexadecimal".into() })?;
        let sale = Self {
            model: text("model")?,
            quantisation: text("quantisation")?,
            context: number("context")?,
            hardware: text("hardware")?,
            loaded: properties.flag("loaded").unwrap_or(false),
            max_output: number("max_output")?,
            slice: number("slice")?,
            tickets_in: price(UseUnit::KilotokenIn)?,
            tickets_out: price(UseUnit::KilotokenOut)?,
            direct: properties.texts("modes").iter().any(|mode| mode == "direct"),
            key: Some(EncryptionKey::from_bytes("key", &key)?),
        };
        sale.check()?;
        Ok(sale)
    }

    /// Checks that its slices can be paid.
    ///
    /// # Errors
    /// [`WireError::Range`].
    pub fn check(&self) -> Result<(), WireError> {
        wire::in_range("max_output", self.max_output.into(), 1, self.context.into())?;
        wire::in_range("slice", self.slice.into(), 1, u32::MAX.into())?;
        wire::in_range("tickets_out", self.tickets_out.into(), 1, u32::MAX.into())?;
        wire::in_range("tickets of a slice", self.slice_tickets(), 1, MAX_TICKETS)?;
        Ok(())
    }

    /// The entry in an offer.
    ///
    /// # Errors
    /// [`WireError`] when a text is too long or empty.
    pub fn entry(&self, id: ServiceId, key: &EncryptionKey) -> Result<Service, WireError> {
        let text = |text: &str| PropertyValue::Text(text.to_owned());
        let number = |number: u32| PropertyValue::Number(number.into());
        let mut modes = vec!["relay".to_owned()];
        if self.direct {
            modes.push("direct".to_owned());
        }
        let properties = Properties::new()
            .with("model", text(&self.model))?
            .with("quantisation", text(&self.quantisation))?
            .with("context", number(self.context))?
            .with("hardware", text(&self.hardware))?
            .with("loaded", PropertyValue::Flag(self.loaded))?
            .with("max_output", number(self.max_output))?
            .with("max_input", PropertyValue::Number(self.max_input()))?
            .with("slice", number(self.slice))?
            .with("modes", PropertyValue::Texts(modes))?
            .with("key", text(&hex::encode(key.as_bytes())))?;
        let mut uses = vec![UsePrice { unit: UseUnit::KilotokenOut, quantity: 1, tickets: self.tickets_out }];
        if self.tickets_in > 0 {
            uses.push(UsePrice { unit: UseUnit::KilotokenIn, quantity: 1, tickets: self.tickets_in });
        }
        let name: FamilyName = FAMILY.parse()?;
        Ok(Service { id, uses, attributes: Attributes::Family(FamilyAttributes { name, lease: None, properties }) })
    }

    /// Tickets of one slice: its share of the price of 1000 tokens, a begun ticket counts whole.
    #[must_use]
    pub fn slice_tickets(&self) -> u64 {
        (u64::from(self.slice) * u64::from(self.tickets_out)).div_ceil(1000)
    }

    /// Tickets of a prompt of so many metered tokens, with the first slice of its answer.
    #[must_use]
    pub fn prompt_tickets(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(self.tickets_in.into()).div_ceil(1000).saturating_add(self.slice_tickets())
    }

    /// Metered tokens of the longest prompt that one proof can pay.
    #[must_use]
    pub fn max_input(&self) -> u64 {
        let context = u64::from(self.context);
        let left = MAX_TICKETS.saturating_sub(self.slice_tickets());
        match u64::from(self.tickets_in) {
            0 => context,
            each => (left * 1000 / each).min(context),
        }
    }
}

/// Metered tokens of a prompt: what both sides can count without the model's tokenizer. Each message counts [`TOKENS_A_MESSAGE`], and
/// one for each begun [`BYTES_A_TOKEN`] bytes of its content.
#[must_use]
pub fn metered_tokens(request: &ChatRequest) -> u64 {
    let of = |content: &str| TOKENS_A_MESSAGE + (content.len() as u64).div_ceil(BYTES_A_TOKEN);
    request.messages.iter().map(|message| of(&message.content)).sum()
}
