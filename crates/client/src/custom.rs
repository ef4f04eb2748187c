//! A user's own assessors: a program for a service, and own weights.

use std::collections::BTreeMap;

use tributary_market::program::Program;
use tributary_reputation::Assessment;
use tributary_reputation::custom::{CustomVerdict, input, reweighed, with_custom};

/// How a user judges a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OwnAssessor {
    /// Weights of measurements, in place of the assessor's.
    pub weights: BTreeMap<String, f64>,
    /// A program that scores, and its share of the score, 0 to 1.
    pub program: Option<(Program, f64)>,
}

impl OwnAssessor {
    /// The assessment as the user would have it. A program that fails, is late or answers nonsense changes nothing but the log.
    pub async fn judge(&self, assessment: Assessment) -> Assessment {
        let assessment = reweighed(assessment, &self.weights);
        let Some((program, share)) = &self.program else { return assessment };
        let output = match program.run(input(&assessment)).await {
            Ok(output) => output,
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "the user's assessor gave no score");
                return assessment;
            }
        };
        let verdict: CustomVerdict = match serde_json::from_slice(&output) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::warn!(%error, "the user's assessor wrote no verdict");
                return assessment;
            }
        };
        match with_custom(assessment.clone(), &verdict, *share) {
            Ok(judged) => judged,
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "the user's assessor wrote no verdict");
                assessment
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use serde_json::json;
    use tributary_protocol::UnixTime;
    use tributary_reputation::{AssessmentId, ProviderName, ServiceName, Subject, Verdict};

    use super::*;

    fn script(dir: &Path, body: &str) -> PathBuf {
        let path = dir.join("assessor");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn assessment() -> Assessment {
        Assessment {
            id: AssessmentId::new("use").unwrap(),
            subject: Subject { provider: ProviderName::new("p").unwrap(), service: ServiceName::new("store").unwrap() },
            at: UnixTime::new(1).unwrap(),
            measurements: Vec::new(),
            verdict: Verdict::Scored { score: 1.0, weight: 1.0 },
            evidence: json!({}),
        }
    }

    async fn judged(body: &str) -> Assessment {
        let dir = tempfile::tempdir().unwrap();
        let program = Program {
            path: script(dir.path(), body),
            arguments: Vec::new(),
            time_limit: Duration::from_millis(700),
            max_output: 4096,
        };
        OwnAssessor { program: Some((program, 0.5)), ..OwnAssessor::default() }.judge(assessment()).await
    }

    #[tokio::test]
    async fn a_program_reads_the_measurements_and_scores() {
        let good = judged(r#"grep -q '"provider":"p"' && echo '{"score": 0.2, "evidence": {"why": "x"}}'"#).await;
        assert!(matches!(good.verdict, Verdict::Scored { score, .. } if (score - 0.6).abs() < 1e-12), "{good:?}");
        assert_eq!(good.evidence["custom"]["why"], "x");
    }

    #[tokio::test]
    async fn a_program_that_fails_in_any_way_changes_no_score() {
        for (what, body) in [
            ("fails", "echo '{\"score\": 0}'; exit 3"),
            ("writes nonsense", "echo zero"),
            ("writes nothing", "true"),
            ("scores out of range", "echo '{\"score\": 7}'"),
            ("adds fields", "echo '{\"score\": 0, \"suspend\": true}'"),
            ("writes without end", "while true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"),
        ] {
            assert_eq!(judged(body).await, assessment(), "a program that {what}");
        }
    }

    #[tokio::test]
    async fn a_program_without_end_is_killed_at_its_limit_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let started = Instant::now();
        assert_eq!(judged(&format!("(sleep 3; touch {}) & sleep 60", mark.display())).await, assessment());
        assert!(started.elapsed() < Duration::from_secs(3));
        std::thread::sleep(Duration::from_secs(3).saturating_sub(started.elapsed()) + Duration::from_millis(500));
        assert!(!mark.exists(), "what it started lives on");
    }
}
