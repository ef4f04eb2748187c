//! Why a call isn't answered as asked.

use std::fmt;

/// The kind of a fault, as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpFaultKind {
    /// The call can't be decoded.
    Malformed,
    /// The method isn't served.
    Method,
    /// The target is no plain path: a whole address, one that climbs, or one with characters that paths don't have.
    Target,
    /// The path isn't served.
    Path,
    /// A header concerns one connection, names a host or a length, or isn't one.
    Header,
    /// The request is too large.
    TooLarge,
    /// The upstream can't be reached.
    UpstreamDown,
    /// The upstream broke off, is too slow, or doesn't speak HTTP.
    UpstreamFailed,
    /// There is no answer of this name to go on with.
    NoSuchAnswer,
    /// Too many answers are being read.
    Busy,
}

impl HttpFaultKind {
    const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Method,
        Self::Target,
        Self::Path,
        Self::Header,
        Self::TooLarge,
        Self::UpstreamDown,
        Self::UpstreamFailed,
        Self::NoSuchAnswer,
        Self::Busy,
    ];

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Malformed => 1,
            Self::Method => 2,
            Self::Target => 3,
            Self::Path => 4,
            Self::Header => 5,
            Self::TooLarge => 6,
            Self::UpstreamDown => 7,
            Self::UpstreamFailed => 8,
            Self::NoSuchAnswer => 9,
            Self::Busy => 10,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The stable code of the error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "TRB-H001",
            Self::Method => "TRB-H002",
            Self::Target => "TRB-H003",
            Self::Path => "TRB-H004",
            Self::Header => "TRB-H005",
            Self::TooLarge => "TRB-H006",
            Self::UpstreamDown => "TRB-H007",
            Self::UpstreamFailed => "TRB-H008",
            Self::NoSuchAnswer => "TRB-H009",
            Self::Busy => "TRB-H010",
        }
    }

    /// Whether the request was at fault. Nothing is spent on one that is.
    #[must_use]
    pub const fn is_the_buyers(self) -> bool {
        matches!(
            self,
            Self::Malformed
                | Self::Method
                | Self::Target
                | Self::Path
                | Self::Header
                | Self::TooLarge
                | Self::NoSuchAnswer
        )
    }
}

/// Why a call isn't answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct HttpFault {
    /// Its kind.
    pub kind: HttpFaultKind,
    /// What was wrong, and what is possible.
    pub description: String,
}

impl fmt::Display for HttpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

impl HttpFault {
    pub(crate) fn new(kind: HttpFaultKind, description: impl Into<String>) -> Self {
        Self { kind, description: description.into() }
    }

    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.kind.code()
    }
}
