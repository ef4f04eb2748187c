//! Properties of services beyond Waku's, and conditions on them.
//!
//! A family that this crate knows nothing of describes itself by named values. Buyers filter by them and providers check requests for quotes against them
//! without knowing what they mean; each family's own crate gives them types and meaning.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::proto;
use crate::wire::{self, WireError};

/// Properties of one service at most.
pub const MAX_PROPERTIES: usize = 32;
/// Conditions of one request at most.
pub const MAX_NEEDS: usize = 16;
/// Bytes of a name at most.
pub const MAX_NAME_BYTES: usize = 32;
/// Bytes of a text at most.
pub const MAX_TEXT_BYTES: usize = 128;
/// Texts of one property at most.
pub const MAX_TEXTS: usize = 16;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Its text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = WireError;

            fn from_str(text: &str) -> Result<Self, WireError> {
                wire::in_range($field, text.len() as u64, 1, MAX_NAME_BYTES as u64)?;
                if text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == $extra) {
                    return Ok(Self(text.to_owned()));
                }
                let reason = format!("only lower-case letters, digits and '{}' are allowed", char::from($extra));
                Err(WireError::Invalid { field: $field, reason })
            }
        }

        impl TryFrom<String> for $name {
            type Error = WireError;

            fn try_from(text: String) -> Result<Self, WireError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A service family: lower-case letters, digits and '-', 1 to [`MAX_NAME_BYTES`] bytes.
    FamilyName, "family.name", b'-'
}
name! {
    /// A property's name: lower-case letters, digits and '_', 1 to [`MAX_NAME_BYTES`] bytes.
    PropertyName, "property.name", b'_'
}

/// What a property says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PropertyValue {
    /// A number, in the unit that the property's name tells.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A text of 1 to [`MAX_TEXT_BYTES`] bytes.
    Text(String),
    /// 1 to [`MAX_TEXTS`] texts.
    Texts(Vec<String>),
}

impl fmt::Display for PropertyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Text(text) => f.write_str(text),
            Self::Texts(texts) => f.write_str(&texts.join(" ")),
        }
    }
}

/// Properties by name, in the order in which they were given; at most [`MAX_PROPERTIES`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties(Vec<(PropertyName, PropertyValue)>);

impl Properties {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// With one more.
    ///
    /// # Errors
    /// [`WireError`] when the name or the value is out of bounds, the name is there already, or there are [`MAX_PROPERTIES`].
    pub fn with(mut self, name: &str, value: PropertyValue) -> Result<Self, WireError> {
        self.push(name.parse()?, value)?;
        Ok(self)
    }

    fn push(&mut self, name: PropertyName, value: PropertyValue) -> Result<(), WireError> {
        wire::in_range("family.properties", self.0.len() as u64 + 1, 1, MAX_PROPERTIES as u64)?;
        if self.get(name.as_str()).is_some() {
            let reason = format!("two values for {name}");
            return Err(WireError::Invalid { field: "family.properties", reason });
        }
        match &value {
            PropertyValue::Text(text) => bounded(text)?,
            PropertyValue::Texts(texts) => {
                wire::in_range("property.texts", texts.len() as u64, 1, MAX_TEXTS as u64)?;
                texts.iter().try_for_each(|text| bounded(text))?;
            }
            PropertyValue::Number(_) | PropertyValue::Flag(_) => {}
        }
        self.0.push((name, value));
        Ok(())
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&PropertyValue> {
        self.0.iter().find(|(known, _)| known.as_str() == name).map(|(_, value)| value)
    }

    /// The number of this name; `None` also when it is something else.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            PropertyValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The flag of this name; `None` also when it is something else.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            PropertyValue::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The text of this name; `None` also when it is something else.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            PropertyValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of this name, one or many; none when it is something else.
    #[must_use]
    pub fn texts(&self, name: &str) -> &[String] {
        match self.get(name) {
            Some(PropertyValue::Text(text)) => std::slice::from_ref(text),
            Some(PropertyValue::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&PropertyName, &PropertyValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The value of this name for a person, or that there is none.
    #[must_use]
    pub fn shown(&self, name: &PropertyName) -> String {
        self.get(name.as_str()).map_or_else(|| "absent".to_owned(), ToString::to_string)
    }

    pub(crate) fn to_proto(&self) -> Vec<proto::Property> {
        use proto::property::Value;
        let value = |value: &PropertyValue| match value {
            PropertyValue::Number(number) => Value::Number(*number),
            PropertyValue::Flag(flag) => Value::Flag(*flag),
            PropertyValue::Text(text) => Value::Text(text.clone()),
            PropertyValue::Texts(texts) => Value::Texts(proto::TextList { texts: texts.clone() }),
        };
        let property = |(name, v): &(PropertyName, PropertyValue)| proto::Property {
            name: name.to_string(),
            value: Some(value(v)),
        };
        self.0.iter().map(property).collect()
    }

    pub(crate) fn from_proto(properties: &[proto::Property]) -> Result<Self, WireError> {
        use proto::property::Value;
        let mut all = Self::new();
        for property in properties {
            let value = match &property.value {
                Some(Value::Number(number)) => PropertyValue::Number(*number),
                Some(Value::Flag(flag)) => PropertyValue::Flag(*flag),
                Some(Value::Text(text)) => PropertyValue::Text(text.clone()),
                Some(Value::Texts(list)) => PropertyValue::Texts(list.texts.clone()),
                // A kind that a later version may add; nothing can be said of it here.
                None => continue,
            };
            all.push(property.name.parse()?, value)?;
        }
        Ok(all)
    }
}

fn bounded(text: &str) -> Result<(), WireError> {
    wire::in_range("property.text", text.len() as u64, 1, MAX_TEXT_BYTES as u64)?;
    wire::text("property.text", text, MAX_TEXT_BYTES).map(|_| ())
}

/// What a property must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A number of this or more.
    AtLeast(u64),
    /// A number of this or less.
    AtMost(u64),
    /// This text, or among the texts this one.
    Text(String),
    /// This.
    Flag(bool),
}

/// A condition on one property. One that is absent or of another kind doesn't meet it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Which.
    pub property: PropertyName,
    /// What it must be.
    pub rule: Rule,
}

impl Need {
    /// A condition on the property `name`.
    ///
    /// # Errors
    /// [`WireError`] for what is no property's name, or a text out of bounds.
    pub fn new(name: &str, rule: Rule) -> Result<Self, WireError> {
        if let Rule::Text(text) = &rule {
            bounded(text)?;
        }
        Ok(Self { property: name.parse()?, rule })
    }

    /// Whether these properties meet it.
    #[must_use]
    pub fn met_by(&self, properties: &Properties) -> bool {
        match (&self.rule, properties.get(self.property.as_str())) {
            (Rule::AtLeast(least), Some(PropertyValue::Number(number))) => number >= least,
            (Rule::AtMost(most), Some(PropertyValue::Number(number))) => number <= most,
            (Rule::Text(wanted), Some(PropertyValue::Text(text))) => text == wanted,
            (Rule::Text(wanted), Some(PropertyValue::Texts(texts))) => texts.contains(wanted),
            (Rule::Flag(wanted), Some(PropertyValue::Flag(flag))) => flag == wanted,
            _ => false,
        }
    }

    pub(crate) fn to_proto(&self) -> proto::Need {
        proto::Need {
            property: self.property.to_string(),
            rule: Some(match &self.rule {
                Rule::AtLeast(least) => proto::need::Rule::AtLeast(*least),
                Rule::AtMost(most) => proto::need::Rule::AtMost(*most),
                Rule::Text(text) => proto::need::Rule::Text(text.clone()),
                Rule::Flag(flag) => proto::need::Rule::Flag(*flag),
            }),
        }
    }

    pub(crate) fn from_proto(need: &proto::Need) -> Result<Self, WireError> {
        let rule = match &need.rule {
            Some(proto::need::Rule::AtLeast(least)) => Rule::AtLeast(*least),
            Some(proto::need::Rule::AtMost(most)) => Rule::AtMost(*most),
            Some(proto::need::Rule::Text(text)) => Rule::Text(text.clone()),
            Some(proto::need::Rule::Flag(flag)) => Rule::Flag(*flag),
            // Unlike a property, a condition can't be left out: it would count as met.
            None => {
                return Err(WireError::Invalid { field: "need.rule", reason: "a rule that isn't known here".into() });
            }
        };
        Self::new(&need.property, rule)
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::AtLeast(least) => write!(f, "at least {least}"),
            Rule::AtMost(most) => write!(f, "at most {most}"),
            Rule::Text(text) => f.write_str(text),
            Rule::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PROPERTIES, MAX_TEXTS, Need, Properties, PropertyValue, Rule};

    fn properties() -> Properties {
        let texts = |texts: &[&str]| PropertyValue::Texts(texts.iter().map(|&t| t.to_owned()).collect());
        Properties::new()
            .with("context", PropertyValue::Number(8192))
            .and_then(|p| p.with("model", PropertyValue::Text("smollm2".into())))
            .and_then(|p| p.with("loaded", PropertyValue::Flag(true)))
            .and_then(|p| p.with("transports", texts(&["udp", "tcp"])))
            .unwrap()
    }

    #[test]
    fn properties_survive_the_wire() {
        let all = properties();
        assert_eq!(Properties::from_proto(&all.to_proto()).unwrap(), all);
    }

    #[test]
    fn each_bound_is_checked() {
        let text = |n: usize| PropertyValue::Text("x".repeat(n));
        let field = |result: Result<Properties, crate::wire::WireError>| result.unwrap_err().to_string();
        assert!(field(Properties::new().with("A", PropertyValue::Flag(true))).contains("property.name"));
        assert!(field(Properties::new().with("a", text(0))).contains("property.text"));
        assert!(field(Properties::new().with("a", text(129))).contains("property.text"));
        assert!(
            field(Properties::new().with("a", PropertyValue::Texts(vec!["x".into(); MAX_TEXTS + 1])))
                .contains("property.texts")
        );
        assert!(field(properties().with("model", text(1))).contains("two values for model"));
        let full = (0..MAX_PROPERTIES).try_fold(Properties::new(), |p, i| p.with(&format!("p{i}"), text(1))).unwrap();
        assert!(field(full.with("more", text(1))).contains("family.properties"));
    }

    #[test]
    fn needs_hold_for_their_own_kind_only() {
        let all = properties();
        let met = |name, rule| Need::new(name, rule).unwrap().met_by(&all);
        assert!(met("context", Rule::AtLeast(8192)) && !met("context", Rule::AtLeast(8193)));
        assert!(met("context", Rule::AtMost(8192)) && !met("context", Rule::AtMost(8191)));
        assert!(met("model", Rule::Text("smollm2".into())) && !met("model", Rule::Text("smol".into())));
        assert!(met("transports", Rule::Text("tcp".into())) && !met("transports", Rule::Text("tls".into())));
        assert!(met("loaded", Rule::Flag(true)) && !met("loaded", Rule::Flag(false)));
        assert!(
            !met("model", Rule::AtLeast(0)) && !met("absent", Rule::AtMost(1)) && !met("absent", Rule::Flag(false))
        );
    }

    #[test]
    fn a_rule_that_is_not_known_is_refused() {
        let need = Need::new("context", Rule::AtLeast(1)).unwrap();
        let mut wire = need.to_proto();
        assert_eq!(Need::from_proto(&wire).unwrap(), need);
        wire.rule = None;
        assert!(Need::from_proto(&wire).unwrap_err().to_string().contains("need.rule"));
    }
}
