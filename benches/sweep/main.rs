//! The bench of whole runs: `cargo bench --bench sweep -- --keys 1000000`.
//!
//! A synthetic endpoint with adjustable latency and rate, a PostgreSQL with the names, and
//! between them, in turn and round by round: the released program, a bare listing with the
//! AWS SDK, and whichever of `s5cmd`, `rclone` and `aws` is on PATH. Each is measured as a
//! whole process, by the kernel's account. Absolute times are this machine's; what counts
//! are the ratios.
//!
//! What it does not show: TLS, real S3's tail latency and throughput, a network. The
//! database is local, and like the endpoint it shares the cores with who is measured.

mod database;
mod endpoint;
mod keys;
mod measure;
mod options;
mod page;
mod report;
mod sdk;
mod world;

use anyhow::Context as _;
use clap::Parser as _;
use endpoint::Behaviour;
use keys::Population;
use options::{Options, Part};
use orphan_sweeper::local::postgres::PostgresServer;
use report::{Case, Results};
use world::{EndpointProcess, Subject, Tool, World};

/// Real S3 deletes at about this many keys a second below one prefix.
const DELETIONS_A_SECOND: u32 = 3_500;

/// Pages a second that the throttled endpoint allows.
const PAGES_A_SECOND: u32 = 200;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match options.part {
        Some(Part::Endpoint { keys }) => endpoint::serve(Population::new(keys)),
        Some(Part::SdkListing { keys, spawn }) => sdk::list(Population::new(keys), spawn),
        None => {
            // One thread: whoever starts a process lends it his peak memory.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let server = runtime
                .block_on(PostgresServer::temporary())
                .context("no PostgreSQL")?;
            bench(&options, |name, population| {
                runtime.block_on(database::fill(&server, name, population))
            })
        }
    }
}

fn bench(
    options: &Options,
    fill: impl Fn(&str, Population) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let population = Population::new(options.keys);
    let world = world(options, population, &fill)?;
    if options.serve {
        return serve(&world, options);
    }
    let mut results = Results {
        latency_ms: options.latency,
        keys: population.len(),
        ..Results::default()
    };
    results.cases = cases(options, &world)?;
    if !options.without_throttle {
        results.throttled = throttled(&world)?;
    }
    let pages: u64 = results
        .cases
        .iter()
        .flat_map(|case| &case.samples)
        .map(|sample| sample.endpoint.lists)
        .sum();
    let cpu = world.endpoint.stop()?;
    if options.growth {
        let population = Population::new(options.keys * 10);
        let world = self::world(options, population, &fill)?;
        for subject in [
            Subject::Plan(32),
            Subject::Sweep(32),
            Subject::Plan(8),
            Subject::Sweep(8),
        ] {
            results
                .grown
                .push(case(&world, subject, Behaviour::default(), 1)?);
        }
        world.endpoint.stop()?;
    }
    println!("\n{results}");
    println!(
        "The endpoint itself took {:.2} ms of CPU a page, deletions included.",
        cpu.as_secs_f64() * 1e3 / report::float(pages.max(1))
    );
    for tool in Tool::ALL.into_iter().filter(|tool| !tool.is_here()) {
        println!("{} is not on PATH and was not measured.", tool.name());
    }
    if options.check {
        let missed = results
            .goals()
            .into_iter()
            .filter(|goal| goal.own && goal.missed(4.0 / 3.0));
        let missed: Vec<String> = missed.map(|goal| goal.to_string()).collect();
        anyhow::ensure!(
            missed.is_empty(),
            "missed by more than a third:\n{}",
            missed.join("\n")
        );
    }
    Ok(())
}

fn world(
    options: &Options,
    population: Population,
    fill: &impl Fn(&str, Population) -> anyhow::Result<String>,
) -> anyhow::Result<World> {
    eprintln!(
        "filling a database with the names of {} keys",
        population.len()
    );
    Ok(World {
        population,
        endpoint: EndpointProcess::start(population)?,
        database_url: fill(&format!("bench_{}", population.len()), population)?,
        binary: world::binary(options.binary.as_deref()),
        folder: tempfile::tempdir()?,
    })
}

/// Every subject under every latency, in turn.
fn cases(options: &Options, world: &World) -> anyhow::Result<Vec<Case>> {
    let subjects = [
        Subject::Plan(32),
        Subject::Sweep(32),
        Subject::Plan(64),
        Subject::Sweep(64),
        Subject::Plan(8),
        Subject::Sweep(8),
        Subject::Sdk { spawn: false },
        Subject::Sdk { spawn: true },
    ];
    let tools = Tool::ALL
        .into_iter()
        .filter(|tool| !options.without_tools && tool.is_here())
        .map(Subject::Tool);
    let mut latencies = vec![0, options.latency];
    latencies.dedup();
    let mut cases: Vec<Case> = subjects
        .into_iter()
        .chain(tools)
        .flat_map(|subject| {
            latencies
                .iter()
                .map(move |&latency_ms| (subject, latency_ms))
        })
        .map(|(subject, latency_ms)| Case {
            subject,
            latency_ms,
            keys: world.population.len(),
            samples: Vec::new(),
        })
        .collect();
    for round in 0..options.rounds.max(1) {
        for case in &mut cases {
            // The tools take so long that once must do.
            if round > 0 && matches!(case.subject, Subject::Tool(_)) {
                continue;
            }
            let behaviour = Behaviour {
                latency_ms: case.latency_ms,
                ..Behaviour::default()
            };
            run(world, case, behaviour)?;
        }
    }
    Ok(cases)
}

/// An endpoint that allows less than is asked for. The listing goes at a rate of its own,
/// deletions at the one that S3 is known for.
fn throttled(world: &World) -> anyhow::Result<Vec<(Case, u32)>> {
    let pages = Behaviour {
        pages_a_second: PAGES_A_SECOND,
        ..Behaviour::default()
    };
    let deletions = Behaviour {
        deletions_a_second: DELETIONS_A_SECOND,
        ..Behaviour::default()
    };
    Ok(vec![
        (case(world, Subject::Plan(32), pages, 1)?, PAGES_A_SECOND),
        (
            case(world, Subject::Sweep(32), deletions, 1)?,
            DELETIONS_A_SECOND,
        ),
    ])
}

fn case(
    world: &World,
    subject: Subject,
    behaviour: Behaviour,
    rounds: usize,
) -> anyhow::Result<Case> {
    let mut case = Case {
        subject,
        latency_ms: behaviour.latency_ms,
        keys: world.population.len(),
        samples: Vec::new(),
    };
    for _ in 0..rounds {
        run(world, &mut case, behaviour)?;
    }
    Ok(case)
}

fn run(world: &World, case: &mut Case, behaviour: Behaviour) -> anyhow::Result<()> {
    let sample = world.sample(case.subject, behaviour)?;
    eprintln!(
        "{}, {} keys, {} ms: {:.2} s, {:.2} s of CPU",
        case.subject,
        case.keys,
        case.latency_ms,
        sample.process.wall.as_secs_f64(),
        sample.process.cpu.as_secs_f64()
    );
    case.samples.push(sample);
    Ok(())
}

/// Leaves everything up for somebody who wants to run things by hand.
fn serve(world: &World, options: &Options) -> anyhow::Result<()> {
    world.endpoint.behave(Behaviour {
        latency_ms: options.latency,
        ..Behaviour::default()
    })?;
    for (name, value) in world.environment() {
        println!("export {name}='{value}'");
    }
    println!("# bucket {}; Enter ends it", endpoint::BUCKET);
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
