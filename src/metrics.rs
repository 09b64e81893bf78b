//! The metrics of a run, in the Embedded Metric Format: one line of JSON in the function's
//! log, of which CloudWatch makes metrics
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! Their dimensions are the bucket and the prefix, never a key. Their names are the
//! summary's. What a run does not know it does not tell: a run that failed while it listed
//! says nothing of how many objects there are.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::summary::{Status, Summary};

/// The namespace of all metrics.
pub const NAMESPACE: &str = "OrphanSweeper";

/// What stands for the whole bucket: a dimension's value is never empty, and no prefix is
/// this.
pub const WHOLE_BUCKET: &str = "*";

/// A run that left its work to another is no reason to wake anybody.
const ANOTHER_RUN: &str = "another_run";

/// The metrics of a run, as they are logged.
#[must_use]
pub fn embedded(summary: &Summary, cold_start: bool, now: Timestamp) -> Map<String, Value> {
    let guard = summary.refusal.as_ref().map(|refusal| refusal.guard);
    let held_apart = guard == Some(ANOTHER_RUN);
    let ended = |status: Status| summary.status == status && !held_apart;
    let once = |is: bool| u64::from(is);
    let mut metrics = vec![
        (
            "runs_succeeded",
            "Count",
            once(ended(Status::Completed) || ended(Status::DryRun)),
        ),
        ("runs_refused", "Count", once(ended(Status::Refused))),
        ("runs_incomplete", "Count", once(ended(Status::Incomplete))),
        ("runs_failed", "Count", once(ended(Status::Failed))),
        ("runs_held_apart", "Count", once(held_apart)),
        ("duration_ms", "Milliseconds", summary.duration_ms),
        ("cold_starts", "Count", once(cold_start)),
    ];
    let counts = &summary.counts;
    if !held_apart {
        metrics.extend([
            ("deleted", "Count", counts.deleted),
            ("deleted_bytes", "Bytes", counts.deleted_bytes),
            ("spared", "Count", counts.spared),
            ("failed", "Count", counts.failed),
            ("unknown", "Count", counts.unknown),
        ]);
    }
    if let Some(rechecked) = &summary.more.rechecked {
        metrics.extend([
            ("referenced_after_deletion", "Count", rechecked.referenced),
            ("restored", "Count", rechecked.restored),
        ]);
    }
    if knows_all(summary) {
        metrics.extend([
            ("listed", "Count", counts.listed),
            ("listed_bytes", "Bytes", counts.listed_bytes),
            ("references", "Count", counts.references),
            ("referenced", "Count", counts.referenced),
            ("young", "Count", counts.young),
            ("orphans", "Count", counts.orphans),
            ("orphan_bytes", "Bytes", counts.orphan_bytes),
            ("dangling", "Count", counts.dangling),
        ]);
    }
    let described: Vec<Value> = metrics
        .iter()
        .map(|(name, unit, _)| json!({"Name": name, "Unit": unit}))
        .collect();
    let prefix = match summary.prefix.as_str() {
        "" => WHOLE_BUCKET,
        prefix => prefix,
    };
    let mut line = Map::new();
    line.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": now.as_millisecond(),
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": [["bucket", "prefix"]],
                "Metrics": described,
            }],
        }),
    );
    line.insert("bucket".to_owned(), json!(summary.bucket));
    line.insert("prefix".to_owned(), json!(prefix));
    line.insert("run_id".to_owned(), json!(summary.run_id));
    line.insert("status".to_owned(), json!(summary.status));
    line.insert("dry_run".to_owned(), json!(summary.dry_run));
    for (name, _, value) in metrics {
        line.insert(name.to_owned(), json!(value));
    }
    line
}

/// Whether the whole scope was judged, so that the counts of it are true.
fn knows_all(summary: &Summary) -> bool {
    match summary.status {
        Status::Completed | Status::DryRun => true,
        // Most guards look at the whole plan, the others before anything was listed.
        Status::Refused => summary.counts.listed > 0,
        Status::Incomplete | Status::Failed => summary.counts.asked() > 0,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::key::Prefix;
    use crate::summary::{Counts, More, Rechecked, Refusal};

    fn summary(status: Status, prefix: &str) -> Summary {
        Summary {
            run_id: Uuid::nil(),
            status,
            bucket: "pictures".into(),
            prefix: Prefix::folder(prefix),
            dry_run: false,
            started_at: Timestamp::UNIX_EPOCH,
            cutoff: None,
            duration_ms: 7,
            counts: Counts {
                listed: 10,
                orphans: 4,
                deleted: 3,
                deleted_bytes: 30,
                ..Counts::default()
            },
            refusal: None,
            errors: Vec::new(),
            report: String::new(),
            more: More::default(),
        }
    }

    fn told(summary: &Summary) -> Map<String, Value> {
        let line = embedded(summary, true, Timestamp::UNIX_EPOCH);
        // What is described is there, as a number, and nothing else is a metric.
        let format = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(format["Dimensions"], json!([["bucket", "prefix"]]));
        for metric in format["Metrics"].as_array().unwrap() {
            assert!(line[metric["Name"].as_str().unwrap()].is_u64(), "{metric}");
        }
        for dimension in ["bucket", "prefix"] {
            assert!(!line[dimension].as_str().unwrap().is_empty());
        }
        line
    }

    #[test]
    fn each_end_of_a_run_is_counted_once() {
        for (status, name) in [
            (Status::Completed, "runs_succeeded"),
            (Status::DryRun, "runs_succeeded"),
            (Status::Refused, "runs_refused"),
            (Status::Incomplete, "runs_incomplete"),
            (Status::Failed, "runs_failed"),
        ] {
            let line = told(&summary(status, "images"));
            let ends: Vec<&String> = line
                .iter()
                .filter(|(name, value)| name.starts_with("runs_") && **value == json!(1))
                .map(|(name, _)| name)
                .collect();
            assert_eq!(ends, [name]);
            assert_eq!(
                (&line["deleted"], &line["prefix"]),
                (&json!(3), &json!("images/"))
            );
        }
        assert_eq!(told(&summary(Status::Completed, ""))["prefix"], "*");
    }

    #[test]
    fn a_run_that_left_its_work_to_another_is_not_a_refused_one() {
        let mut second = summary(Status::Refused, "");
        second.refusal = Some(Refusal {
            guard: ANOTHER_RUN,
            value: 1.0,
            limit: 0.0,
            hint: String::new(),
            examples: Vec::new(),
        });
        second.counts = Counts::default();
        let line = told(&second);
        assert_eq!(
            (&line["runs_held_apart"], &line["runs_refused"]),
            (&json!(1), &json!(0))
        );
        assert!(!line.contains_key("listed") && !line.contains_key("deleted"));
    }

    #[test]
    fn what_was_named_again_is_told_where_it_was_asked() {
        let mut swept = summary(Status::Incomplete, "");
        assert!(!told(&swept).contains_key("restored"));
        swept.more.rechecked = Some(Rechecked {
            referenced: 2,
            restored: 1,
        });
        let line = told(&swept);
        assert_eq!(
            (&line["referenced_after_deletion"], &line["restored"]),
            (&json!(2), &json!(1))
        );
    }

    #[test]
    fn counts_of_what_was_not_wholly_judged_are_not_told() {
        let mut failed = summary(Status::Failed, "");
        assert_eq!(told(&failed)["listed"], 10, "the sweep had begun");
        failed.counts.deleted = 0;
        assert!(!told(&failed).contains_key("listed"));
        let mut refused = summary(Status::Refused, "");
        assert_eq!(told(&refused)["orphans"], 4);
        refused.counts = Counts::default();
        assert!(!told(&refused).contains_key("orphans"));
    }
}
