//! What an offer says of an HTTP service.

use tributary_market::{
    offer::{Attributes, FamilyAttributes, Service},
    property::{FamilyName, Properties, PropertyValue},
    wire::WireError,
};

/// The family's name in offers.
const FAMILY: &str = "http";

/// The family.
///
/// # Panics
/// Never: the name is one.
#[must_use]
pub fn family() -> FamilyName {
    FAMILY.parse().unwrap_or_else(|error| unreachable!("'{FAMILY}' is a family's name: {error}"))
}

/// A typed view of the properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProperties {
    /// Methods that are served, 1 to 16.
    pub methods: Vec<String>,
    /// Paths that are served, each with what lies below it, 1 to 16.
    pub paths: Vec<String>,
    /// Bytes of a request's body at most.
    pub max_body: u64,
    /// What it is, for a person.
    pub title: Option<String>,
}

impl HttpProperties {
    /// As they stand in an offer.
    ///
    /// # Errors
    /// [`WireError`] when a text is out of bounds.
    pub fn attributes(&self) -> Result<Attributes, WireError> {
        let mut properties = Properties::new()
            .with("methods", PropertyValue::Texts(self.methods.clone()))?
            .with("paths", PropertyValue::Texts(self.paths.clone()))?
            .with("max_body_bytes", PropertyValue::Number(self.max_body))?;
        if let Some(title) = &self.title {
            properties = properties.with("title", PropertyValue::Text(title.clone()))?;
        }
        Ok(Attributes::Family(FamilyAttributes { name: family(), lease: None, properties }))
    }

    /// What an offer says; `None` for a service of another family, or one without methods or paths.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        let Attributes::Family(attributes) = &service.attributes else { return None };
        let properties = &attributes.properties;
        let (methods, paths) = (properties.texts("methods").to_vec(), properties.texts("paths").to_vec());
        if attributes.name.as_str() != FAMILY || methods.is_empty() || paths.is_empty() {
            return None;
        }
        let max_body = properties.number("max_body_bytes").unwrap_or(0);
        Some(Self { methods, paths, max_body, title: properties.text("title").map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use tributary_market::offer::Service;

    use super::HttpProperties;

    #[test]
    fn properties_are_read_as_they_were_written() {
        let all = HttpProperties {
            methods: vec!["GET".into()],
            paths: vec!["/a".into(), "/b".into()],
            max_body: 5,
            title: Some("tides".into()),
        };
        let attributes = all.attributes().unwrap();
        let service = Service { id: "http-tides".parse().unwrap(), uses: Vec::new(), attributes };
        assert_eq!(HttpProperties::of(&service), Some(all));
    }
}
