//! `yakt bench`: load on a cluster, and what came of it.
//!
//! Closed loop: each connection sends a request, waits for the answer, and sends the next, so that a slow server is
//! asked less and not buried. Latencies are of answered requests, as the client saw them; errors are counted by
//! status code and are in no latency. At the end, what was acknowledged is looked for.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Failure, addr, print};

mod check;
mod connection;
mod cost;
mod cpu;
mod load;
mod mix;
mod report;
mod tally;

use cost::{Counters, PerWrite};
use load::{Load, Stop};
use mix::{Kind, Mix};
use tally::Tally;

/// Put load on a cluster and measure it
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The HTTP addresses of the nodes to ask; connections are spread over them
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:5011", value_parser = addr::http)]
    addrs: Vec<String>,
    /// How many connections, each with one request under way
    #[arg(long, value_name = "COUNT", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// What is asked, by weight: topics are created, found by name, and changes are polled
    #[arg(long, value_name = "KIND=WEIGHT,…", default_value = "writes=1,reads=1,mgmt=0")]
    mix: Mix,
    /// What reads are content with
    #[arg(long, value_name = "CONSISTENCY", value_enum, default_value = "linearizable")]
    read_consistency: Consistency,
    /// Topics to create before anything is measured
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preload: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Consistency {
    /// What was acknowledged before the read began is seen
    Linearizable,
    /// Whatever the asked node has
    Stale,
}

impl Consistency {
    /// Its name in a query.
    fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Stale => "stale",
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| "not a number")?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(duration) }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    if args.mix.has(Kind::Read) && !args.mix.has(Kind::Write) && args.preload == 0 {
        return Err("there is nothing to read: have writes in --mix, or give --preload".into());
    }
    let load = Arc::new(Load::new(&args.addrs, args.read_consistency.name()));
    load.reach().await?;
    if args.preload > 0 {
        let before = play(&load, &args, Mix::WRITES, Stop::After(args.preload)).await?;
        before.0.must_be_clean()?;
    }
    if args.mix.has(Kind::Mgmt) {
        load.poll_first().await?;
    }
    let before = Counters::of_cluster(&args.addrs[0]).await;
    let cpu = cpu::used();
    let (tally, took) = play(&load, &args, args.mix, Stop::At(args.duration)).await?;
    let cpu = cpu.zip(cpu::used()).map(|(before, after)| after.saturating_sub(before));
    let after = Counters::of_cluster(&args.addrs[0]).await;
    let writes = tally.latencies().get(&Kind::Write).map_or(0, hdrhistogram::Histogram::len);
    let cost =
        before.zip(after).and_then(|(before, after)| PerWrite::between(before, after, writes));
    let checked = check::acknowledged(&load, args.connections).await?;
    let report = report::Report::new(&args, &tally, took, &report::Used { cpu, cost }, checked);
    if args.json {
        print::result(serde_json::to_string_pretty(&report)?)?;
    } else {
        print::result(&report)?;
    }
    if tally.latencies().is_empty() {
        let errors: Vec<_> =
            tally.errors().iter().map(|(how, count)| format!("{count} x {how}")).collect();
        return Err(
            format!("no request was answered as it should be: {}", errors.join(", ")).into()
        );
    }
    if report.missing() > 0 {
        return Err("something that was acknowledged is not there".into());
    }
    Ok(())
}

/// Lets all connections work, and shows how they get on.
async fn play(
    load: &Arc<Load>,
    args: &Args,
    mix: Mix,
    stop: Stop,
) -> Result<(Tally, Duration), Failure> {
    let begun = Instant::now();
    let workers: Vec<_> = (0..args.connections)
        .map(|number| tokio::spawn(Arc::clone(load).work(number, mix, stop, begun)))
        .collect();
    let progress = tokio::spawn(show(Arc::clone(load), begun));
    let mut all = Tally::default();
    for worker in workers {
        all.add(&worker.await??);
    }
    let took = begun.elapsed();
    progress.abort();
    if std::io::stderr().is_terminal() {
        print::notice("\r\x1b[K");
    }
    Ok((all, took))
}

/// A line about the last second, every second: in place on a terminal.
async fn show(load: Arc<Load>, begun: Instant) {
    let terminal = std::io::stderr().is_terminal();
    let mut before = load.answered();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = load.answered();
        let (rate, errors) = (now.0 - before.0, now.1);
        before = now;
        let line = format!(
            "{:>4.0} s: {rate} requests/s, {} in all, {errors} errors",
            begun.elapsed().as_secs_f64(),
            now.0
        );
        if terminal {
            print::notice(format_args!("\r\x1b[K{line}"));
        } else {
            print::notice(format_args!("{line}\n"));
        }
    }
}
