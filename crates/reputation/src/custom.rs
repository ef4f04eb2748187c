//! What a user's own program, or the user's own weights, make of an assessment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::assess::{AssessError, Assessment, Measurement, Verdict};

/// Version of what a program is given.
const VERSION: u32 = 1;

/// What a program answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomVerdict {
    /// What the use was worth, 0 to 1.
    pub score: f64,
    /// What bears it out.
    #[serde(default)]
    pub evidence: Value,
}

/// What a program is given on standard input.
#[must_use]
pub fn input(assessment: &Assessment) -> Vec<u8> {
    json!({ "version": VERSION, "assessment": assessment }).to_string().into_bytes()
}

/// The assessment with a program's verdict in it: `share` (0 to 1) of the score is the program's. A use that says nothing of the provider stays
/// one.
///
/// # Errors
/// [`AssessError`] when the score is out of its range, or the evidence too large.
pub fn with_custom(mut assessment: Assessment, custom: &CustomVerdict, share: f64) -> Result<Assessment, AssessError> {
    let range = |what, value: f64| {
        if (0.0..=1.0).contains(&value) {
            Ok(value)
        } else {
            Err(AssessError::Range { what, value, min: 0.0, max: 1.0 })
        }
    };
    let (own, share) = (range("a program's score", custom.score)?, range("a program's share", share)?);
    if let Verdict::Scored { score, .. } = &mut assessment.verdict {
        let built_in = *score;
        *score = built_in * (1.0 - share) + own * share;
        assessment.evidence =
            json!({ "built_in": assessment.evidence, "built_in_score": built_in, "custom": custom.evidence });
        assessment.measurements.push(Measurement {
            name: "custom".into(),
            value: own,
            unit: "share".into(),
            score: Some(own),
            weight: share,
        });
    }
    assessment.check()?;
    Ok(assessment)
}

/// The assessment under the user's own weights: measurements that are named count as much as said, the others as before. What the assessor held
/// down, for what was missing or forged say, stays as low as it was.
#[must_use]
pub fn reweighed(mut assessment: Assessment, weights: &BTreeMap<String, f64>) -> Assessment {
    let mean = |measurements: &[Measurement]| {
        let sum: f64 = measurements.iter().filter_map(|part| Some(part.score? * part.weight)).sum();
        let all: f64 = measurements.iter().filter(|part| part.score.is_some()).map(|part| part.weight).sum();
        (all > 0.0).then(|| sum / all)
    };
    let before = mean(&assessment.measurements);
    for part in &mut assessment.measurements {
        if let Some(weight) = weights.get(&part.name)
            && part.score.is_some()
            && (0.0..=f64::MAX).contains(weight)
        {
            part.weight = *weight;
        }
    }
    if let (Verdict::Scored { score, .. }, Some(before), Some(after)) =
        (&mut assessment.verdict, before, mean(&assessment.measurements))
    {
        let held_down = *score < before - 1e-9;
        *score = if held_down { score.min(after) } else { after };
    }
    assessment
}

#[cfg(test)]
mod tests {
    use tributary_protocol::time::UnixTime;

    use super::*;
    use crate::assess::{AssessmentId, ProviderName, ServiceName, Subject};

    fn part(name: &str, score: f64, weight: f64) -> Measurement {
        Measurement { name: name.into(), value: score, unit: "share".into(), score: Some(score), weight }
    }

    fn assessment(score: f64) -> Assessment {
        Assessment {
            id: AssessmentId::new("use").unwrap(),
            subject: Subject { provider: ProviderName::new("p").unwrap(), service: ServiceName::new("store").unwrap() },
            at: UnixTime::new(1).unwrap(),
            measurements: vec![part("completeness", 1.0, 0.75), part("latency", 0.0, 0.25)],
            verdict: Verdict::Scored { score, weight: 1.0 },
            evidence: json!({ "ending": "answered" }),
        }
    }

    fn score(assessment: &Assessment) -> f64 {
        match assessment.verdict {
            Verdict::Scored { score, .. } => score,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_programs_score_counts_by_its_share_and_leaves_the_evidence_of_both() {
        let verdict = CustomVerdict { score: 0.0, evidence: json!("too slow for me") };
        for (share, expected) in [(0.0, 0.75), (0.5, 0.375), (1.0, 0.0)] {
            let judged = with_custom(assessment(0.75), &verdict, share).unwrap();
            assert!((score(&judged) - expected).abs() < 1e-12);
            assert_eq!(judged.evidence["custom"], "too slow for me");
            assert_eq!(judged.evidence["built_in"]["ending"], "answered");
            assert_eq!(judged.value("custom"), Some(0.0));
        }
        let mut fault = assessment(0.75);
        fault.verdict = Verdict::NetworkFault { reason: "x".into() };
        assert_eq!(with_custom(fault.clone(), &verdict, 1.0).unwrap(), fault);
    }

    #[test]
    fn what_is_out_of_range_or_too_large_is_refused() {
        for bad in [-0.1, 1.1, f64::NAN] {
            let verdict = CustomVerdict { score: bad, evidence: Value::Null };
            assert_eq!(with_custom(assessment(0.75), &verdict, 1.0).unwrap_err().code(), "TRB-M602");
        }
        let verdict = CustomVerdict { score: 1.0, evidence: json!("x".repeat(20_000)) };
        assert_eq!(with_custom(assessment(0.75), &verdict, 1.0).unwrap_err().code(), "TRB-M603");
    }

    #[test]
    fn own_weights_count_and_nothing_that_was_held_down_rises() {
        let weights = BTreeMap::from([("latency".to_owned(), 0.75), ("unknown".to_owned(), 9.0)]);
        assert!((score(&reweighed(assessment(0.75), &weights)) - 0.5).abs() < 1e-12);
        assert!((score(&reweighed(assessment(0.2), &weights)) - 0.2).abs() < 1e-12);
        assert!(score(&reweighed(assessment(0.0), &weights)).abs() < 1e-12);
        assert!((score(&reweighed(assessment(0.75), &BTreeMap::new())) - 0.75).abs() < 1e-12);
    }
}
