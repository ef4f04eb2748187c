//! Metrics in the text format that Prometheus reads.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

/// A number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    /// A count.
    Whole(u64),
    /// An amount of base units or wei, which may be larger than a count; readers of this format know doubles only.
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<u128> for Number {
    #[allow(clippy::cast_precision_loss, reason = "readers of this format know doubles only")]
    fn from(value: u128) -> Self {
        Self::Real(value as f64)
    }
}

/// Whether a number only grows.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// One label. Names and values come from this program's own fixed lists, or from its operator; never from a peer.
pub(crate) type Label<'a> = (&'static str, &'a str);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Vec<(&'static str, String)>, Number)>,
}

/// The metrics of one look.
#[derive(Debug, Default)]
pub(crate) struct Families(Vec<Family>);

impl Families {
    /// Adds a number that only grows. Its name gets `_total`.
    pub(crate) fn counter(&mut self, name: &'static str, help: &'static str, value: impl Into<Number>) {
        self.add(Kind::Counter, name, help, &[], value.into());
    }

    /// [`Self::counter`], one for each set of labels.
    pub(crate) fn counter_of(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label<'_>],
        value: impl Into<Number>,
    ) {
        self.add(Kind::Counter, name, help, labels, value.into());
    }

    /// Adds a number that goes up and down.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Into<Number>) {
        self.add(Kind::Gauge, name, help, &[], value.into());
    }

    /// [`Self::gauge`], one for each set of labels.
    pub(crate) fn gauge_of(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label<'_>],
        value: impl Into<Number>,
    ) {
        self.add(Kind::Gauge, name, help, labels, value.into());
    }

    fn add(&mut self, kind: Kind, name: &'static str, help: &'static str, labels: &[Label<'_>], value: Number) {
        let sample = (labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(), value);
        match self.0.iter_mut().find(|family| family.name == name) {
            Some(family) => family.samples.push(sample),
            None => self.0.push(Family { name, help, kind, samples: vec![sample] }),
        }
    }

    /// The text.
    pub(crate) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    number(&mut metric, family.kind, *value)?;
                } else {
                    number(&mut metric.encode_family(labels)?, family.kind, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn number(metric: &mut MetricEncoder<'_>, kind: Kind, value: Number) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Number::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (Kind::Counter, Number::Real(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (Kind::Gauge, Number::Whole(value)) => metric.encode_gauge(&value),
        (Kind::Gauge, Number::Real(value)) => metric.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::Families;

    #[test]
    fn samples_of_one_name_stand_together() {
        let mut families = Families::default();
        families.counter_of("a", "Some.", &[("outcome", "good")], 3u64);
        families.gauge("b", "Others.", 1u128 << 100);
        families.counter_of("a", "Some.", &[("outcome", "bad\"\n")], 4u64);
        assert_eq!(
            families.text().unwrap(),
            "# HELP a Some.\n# TYPE a counter\na_total{outcome=\"good\"} 3\na_total{outcome=\"bad\\\"\\n\"} 4\n\
             # HELP b Others.\n# TYPE b gauge\nb 1.2676506002282295e30\n# EOF\n"
        );
    }
}
