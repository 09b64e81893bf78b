//! The tables.

use std::fmt;
use std::time::Duration;

use crate::world::{Sample, Subject, Tool};

const MIB: f64 = 1_048_576.0;

/// A figure over several rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` without any value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self {
            median: f64::midpoint(lower, upper),
            least,
            most,
        })
    }
}

/// The same subject under the same latency, round by round.
pub(crate) struct Case {
    pub(crate) subject: Subject,
    pub(crate) latency_ms: u64,
    pub(crate) keys: u64,
    pub(crate) samples: Vec<Sample>,
}

impl Case {
    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().map(figure))
    }

    pub(crate) fn wall(&self) -> Option<Spread> {
        self.spread(|sample| sample.process.wall.as_secs_f64())
    }

    /// Seconds of CPU for a million keys.
    pub(crate) fn cpu(&self) -> Option<Spread> {
        self.spread(|sample| sample.process.cpu.as_secs_f64() * 1e6 / float(self.keys))
    }

    /// MiB.
    pub(crate) fn peak(&self) -> Option<Spread> {
        self.spread(|sample| float(sample.process.peak) / MIB)
    }

    /// Pages, against the fewest that could do.
    pub(crate) fn lists(&self) -> Option<Spread> {
        self.spread(|sample| float(sample.endpoint.lists) * 1e3 / float(self.keys))
    }

    /// Milliseconds from the process's start to its first page.
    fn first_list(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| {
            let first = sample.endpoint.first_list_ms?;
            Some(float(first.saturating_sub(sample.process.started_ms)))
        }))
    }
}

/// Every case of a bench, and what the goals say of them.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) cases: Vec<Case>,
    pub(crate) latency_ms: u64,
    pub(crate) keys: u64,
    /// The runs against an endpoint that allows this many pages or deletions a second.
    pub(crate) throttled: Vec<(Case, u32)>,
    /// The runs on ten times the keys.
    pub(crate) grown: Vec<Case>,
}

/// A figure, and the most that it may be.
pub(crate) struct Goal {
    what: String,
    target: f64,
    measured: Option<Spread>,
    unit: Unit,
    /// Whether `--check` holds it: a ratio to something in the same run, or a figure that no
    /// other load on the machine changes.
    pub(crate) own: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    /// Of something that takes longer: told as a fraction.
    Fraction,
    Times,
    Seconds,
    Milliseconds,
    Mib,
}

impl Goal {
    /// Whether it is missed by so many times the target.
    pub(crate) fn missed(&self, margin: f64) -> bool {
        self.measured
            .is_some_and(|measured| measured.median > self.target * margin)
    }

    fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Fraction => format!("1/{:.1}", 1.0 / value),
            Unit::Times => format!("{value:.2} ×"),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Milliseconds => format!("{value:.0} ms"),
            Unit::Mib => format!("{value:.0} MiB"),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (measured, spread, met) = match self.measured {
            None => ("–".to_owned(), String::new(), "not measured"),
            Some(Spread {
                median,
                least,
                most,
            }) => (
                self.show(median),
                format!("{} to {}", self.show(least), self.show(most)),
                if self.missed(1.0) { "MISSED" } else { "met" },
            ),
        };
        let target = self.show(self.target);
        write!(
            f,
            "| {} | ≤ {target} | {measured} | {spread} | {met} |",
            self.what
        )
    }
}

impl Results {
    fn case(&self, subject: Subject, latency_ms: u64) -> Option<&Case> {
        self.cases
            .iter()
            .find(|case| case.subject == subject && case.latency_ms == latency_ms)
    }

    /// Time of one subject against another, round by round where both have as many.
    fn ratio(&self, subject: Subject, other: Subject, latency_ms: u64) -> Option<Spread> {
        let (ours, theirs) = (
            self.case(subject, latency_ms)?,
            self.case(other, latency_ms)?,
        );
        let median = theirs.wall()?.median;
        let paired = ours.samples.len() == theirs.samples.len();
        Spread::of(ours.samples.iter().enumerate().map(|(round, sample)| {
            let their_time = if paired {
                theirs.samples[round].process.wall.as_secs_f64()
            } else {
                median
            };
            sample.process.wall.as_secs_f64() / their_time
        }))
    }

    /// CPU of one subject against another's, without latency: what the machine does beside
    /// it changes both alike.
    fn cpu_ratio(&self, subject: Subject, other: Subject) -> Option<Spread> {
        let theirs = self.case(other, 0)?.cpu()?.median;
        self.case(subject, 0)?
            .spread(|sample| sample.process.cpu.as_secs_f64() * 1e6 / float(self.keys) / theirs)
    }

    /// The goals, in the order of the README.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let mut goals = self.against_others();
        goals.extend(self.against_the_floor());
        goals.extend(self.memory());
        goals.push(Goal {
            what: "LIST requests a thousand keys".to_owned(),
            target: 1.06,
            unit: Unit::Times,
            own: true,
            measured: self.case(Subject::Plan(32), 0).and_then(Case::lists),
        });
        for (case, allowed) in &self.throttled {
            goals.extend(throttled(case, *allowed));
        }
        goals.push(Goal {
            what: "start of the command-line program to its first LIST, 0 ms".to_owned(),
            target: 150.0,
            unit: Unit::Milliseconds,
            own: false,
            measured: self.case(Subject::Plan(32), 0).and_then(Case::first_list),
        });
        goals
    }

    fn against_others(&self) -> Vec<Goal> {
        let late = self.latency_ms;
        let mut goals = Vec::new();
        for tool in Tool::ALL {
            let (name, tool) = (tool.name(), Subject::Tool(tool));
            goals.push(Goal {
                what: format!("sweep against {name}'s listing alone, {late} ms, 32 at once"),
                target: 1.0 / 30.0,
                unit: Unit::Fraction,
                own: false,
                measured: self.ratio(Subject::Sweep(32), tool, late),
            });
            goals.push(Goal {
                what: format!("dry run against {name}'s listing alone, 0 ms, 32 at once"),
                target: 1.0 / 25.0,
                unit: Unit::Fraction,
                own: false,
                measured: self.ratio(Subject::Plan(32), tool, 0),
            });
        }
        for spawn in [false, true] {
            let cores = if spawn { "on all cores" } else { "in one task" };
            for latency_ms in [0, late] {
                for subject in [Subject::Plan(64), Subject::Sweep(64)] {
                    goals.push(Goal {
                        what: format!(
                            "{subject}, against a bare listing with the AWS SDK {cores}, {latency_ms} ms"
                        ),
                        target: 1.0 / 2.5,
                        unit: Unit::Fraction,
                        // With latency, and few keys, the handful of requests before the first page
                        // is most of the time.
                        own: !spawn && latency_ms == 0 && matches!(subject, Subject::Plan(_)),
                        measured: self.ratio(subject, Subject::Sdk { spawn }, latency_ms),
                    });
                }
            }
        }
        goals.push(Goal {
            what: "CPU of a dry run against the AWS SDK's listing alone, 0 ms".to_owned(),
            target: 1.0 / 3.0,
            unit: Unit::Fraction,
            own: true,
            measured: self.cpu_ratio(Subject::Plan(32), Subject::Sdk { spawn: false }),
        });
        goals
    }

    fn against_the_floor(&self) -> Vec<Goal> {
        let late = self.latency_ms;
        let floor = float(self.keys) / 1e3 * float(late) / 1e3 / 32.0;
        let mut goals = Vec::new();
        for subject in [Subject::Plan(32), Subject::Sweep(32)] {
            let floored = self.case(subject, late).and_then(|case| {
                case.spread(|sample| sample.process.wall.as_secs_f64() / floor)
                    .filter(|_| late > 0)
            });
            goals.push(Goal {
                what: format!("{subject}, against the latency floor ({floor:.2} s), {late} ms"),
                target: 1.5,
                unit: Unit::Times,
                own: false,
                measured: floored,
            });
            goals.push(Goal {
                what: format!("CPU of a million keys, {subject}, 0 ms"),
                target: 0.8,
                unit: Unit::Seconds,
                own: false,
                measured: self.case(subject, 0).and_then(Case::cpu),
            });
        }
        goals
    }

    fn memory(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for (at_once, target) in [(32, 64.0), (8, 32.0)] {
            for subject in [Subject::Plan(at_once), Subject::Sweep(at_once)] {
                for latency_ms in [0, self.latency_ms] {
                    goals.push(Goal {
                        what: format!("peak memory, {subject}, {latency_ms} ms"),
                        target,
                        unit: Unit::Mib,
                        own: true,
                        measured: self.case(subject, latency_ms).and_then(Case::peak),
                    });
                }
                let grown = self.grown.iter().find(|case| case.subject == subject);
                let peaks = grown
                    .and_then(Case::peak)
                    .zip(self.case(subject, 0).and_then(Case::peak));
                goals.push(Goal {
                    what: format!("growth of that with ten times the keys, {subject}, 0 ms"),
                    target: 1.1,
                    unit: Unit::Times,
                    own: true,
                    measured: peaks
                        .and_then(|(grown, base)| Spread::of([grown.median / base.median])),
                });
            }
        }
        goals
    }
}

/// How well a run kept to what the endpoint allowed a second.
fn throttled(case: &Case, allowed: u32) -> [Goal; 2] {
    let deletes = matches!(case.subject, Subject::Sweep(_));
    let what = if deletes { "deletions" } else { "pages" };
    let took = case.spread(|sample| {
        let counts = &sample.endpoint;
        let (done, seconds) = if deletes {
            (counts.deleted, counts.delete_seconds)
        } else {
            (counts.lists, counts.list_seconds)
        };
        seconds * f64::from(allowed) / float(done.max(1))
    });
    let storm = case.spread(|sample| {
        let counts = &sample.endpoint;
        let answered = if deletes {
            counts.deletes
        } else {
            counts.lists
        };
        float(counts.throttled) / float(answered.max(1))
    });
    [
        Goal {
            what: format!("time against what {allowed} {what} a second allow"),
            target: 1.0 / 0.85,
            unit: Unit::Times,
            own: true,
            measured: took,
        },
        Goal {
            what: format!("refused requests for each answered one, {allowed} {what} a second"),
            target: 1.0,
            unit: Unit::Times,
            own: false,
            measured: storm,
        },
    ]
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| what | keys | latency | wall, median (least to most) | CPU, a million keys | peak memory | LISTs a 1,000 keys |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        let throttled = self.throttled.iter().map(|(case, _)| case);
        for case in self.cases.iter().chain(&self.grown).chain(throttled) {
            let (Some(wall), Some(cpu), Some(peak), Some(lists)) =
                (case.wall(), case.cpu(), case.peak(), case.lists())
            else {
                continue;
            };
            writeln!(
                f,
                "| {} | {} | {} ms | {:.2} s ({:.2} to {:.2}) | {:.2} s | {:.1} MiB ({:.1} to {:.1}) | {:.3} |",
                case.subject,
                case.keys,
                case.latency_ms,
                wall.median,
                wall.least,
                wall.most,
                cpu.median,
                peak.median,
                peak.least,
                peak.most,
                lists.median,
            )?;
        }
        writeln!(
            f,
            "\n| goal | target | measured | spread | |\n|---|---|---|---|---|"
        )?;
        for goal in self.goals() {
            writeln!(f, "{goal}")?;
        }
        Ok(())
    }
}

/// A count as a figure.
pub(crate) fn float(count: u64) -> f64 {
    // Counts of requests and bytes stay far below 2^52.
    Duration::from_micros(count).as_secs_f64() * 1e6
}
