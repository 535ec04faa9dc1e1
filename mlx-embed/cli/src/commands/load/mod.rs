//! `mlx-embed load`: how long answers take while requests come at a rate of their own.

mod drive;
mod meters;
mod report;
mod schedule;
mod search;
mod sentences;
mod tally;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use mlx_embed::Error;

use crate::error::CliError;
use crate::options::{CommonArgs, Model};
use crate::process::Resident;
use drive::{Drive, Run};
use meters::Meters;
use report::{Machine, Report};
use schedule::{Arrivals, Phase};
use search::{Bisection, Found, Step};
use sentences::Sentences;

/// Arguments of `load`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    /// Requests a second; with --search, the first rate to try
    #[arg(short, long, value_name = "R", default_value = "10", value_parser = rate)]
    rate: f64,

    /// Texts in each request; they are generated, and all different
    #[arg(long, value_name = "N", default_value = "1", value_parser = texts)]
    texts: NonZeroUsize,

    /// Length of the run in seconds; with --search, of each step
    #[arg(short, long, value_name = "S", default_value = "10", value_parser = seconds)]
    seconds: f64,

    /// Give up requests that are not done this long after they were due
    #[arg(short, long, value_name = "MS", value_parser = milliseconds)]
    timeout: Option<Duration>,

    /// Gaps between requests
    #[arg(long, value_name = "HOW", default_value = "poisson")]
    arrivals: Arrivals,

    /// Parts of the run, each FACTORxSECONDS at the rate times FACTOR, such as 1x5,4x5,1x5
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "seconds")]
    phases: Vec<Phase>,

    /// Limit on P95 of the waiting time, for --search and for when --phases counts as recovered
    #[arg(long, value_name = "MS", default_value = "25", value_parser = milliseconds)]
    limit: Duration,

    /// Find the highest rate at which every request is done and P95 is under --limit
    #[arg(long, conflicts_with = "phases")]
    search: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    common: CommonArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed load --rate 50 --texts 10 --seconds 60
  mlx-embed load --rate 100 --timeout 50 --phases 1x5,4x5,1x5
  mlx-embed load --model DIR --texts 10 --search --limit 100

Requests start when they are due, whether or not earlier ones are answered, and
latency counts from then. Gaps are exponential unless --arrivals says constant:
callers don't keep in step, and equal gaps would hide what happens when two come
at once. Each run has the same gaps, and as many requests as rate times seconds.

Latency has four parts: lag (how late this program called), queue (from the call
to the start of the last text's batch, tokenising included), device (that batch)
and overhead (the rest: the result's way back). Submit is the part of queue in
which the caller's thread is busy. A request is late if its timeout passed or
could not be met, and refused if too many texts waited. Requests of more than 64
texts go to the bulk lane.

--phases tells how long it took to recover from a phase with a higher rate than
the next: until P95 of one second's requests was under --limit, where late and
refused ones count as over it. --search doubles or halves the rate, then halves
the gap down to 5 %.";

/// Requests a second that one thread can still send.
const MOST_RATE: f64 = 100_000.0;

/// In a search without --timeout, requests that waited this long show that a rate is too high: there is no need to wait
/// until all of them are done.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Texts of a request: the program makes all of them at once.
const MOST_TEXTS: usize = 1 << 20;

fn texts(text: &str) -> Result<NonZeroUsize, String> {
    let fits = |count: &NonZeroUsize| count.get() <= MOST_TEXTS;
    text.parse().ok().filter(fits).ok_or(format!("give a whole number from 1 to {MOST_TEXTS}"))
}

fn rate(text: &str) -> Result<f64, String> {
    let fits = |rate: &f64| (0.001..=MOST_RATE).contains(rate);
    text.parse().ok().filter(fits).ok_or(format!("give a number from 0.001 to {MOST_RATE}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let fits = |seconds: &f64| (0.01..=86_400.0).contains(seconds);
    text.parse().ok().filter(fits).ok_or("give a number from 0.01 to 86400".to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let fits = |milliseconds: &f64| (0.001..=1e9).contains(milliseconds);
    let milliseconds: Option<f64> = text.parse().ok().filter(fits);
    milliseconds
        .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1e3))
        .ok_or("give a number from 0.001 to 1000000000".to_owned())
}

pub(crate) fn run(args: &LoadArgs) -> Result<(), CliError> {
    if args.requests() == 0 {
        return Err(CliError::Usage(
            "no request starts in this time: give a higher --rate or more --seconds".to_owned(),
        ));
    }
    // Before the model is loaded, which is when it looks for a recorder. This program installs no other.
    let meters = Meters::install().map_err(|error| CliError::Usage(error.to_string()))?;
    let model = args.common.load()?;
    let load = Load { args, model, meters, sentences: Sentences::default() };
    load.warm_up()?;
    if args.search {
        return crate::report::print(args.json, &load.search()?, Found::table);
    }
    let (report, run) = load.measure(&load.drive());
    crate::report::print(args.json, &report, Report::table)?;
    load.check(&run)
}

impl LoadArgs {
    /// Parts of the run: one, unless the options say otherwise.
    fn phases(&self) -> Vec<Phase> {
        let whole = [Phase { factor: 1.0, seconds: self.seconds }];
        if self.phases.is_empty() { whole.to_vec() } else { self.phases.clone() }
    }

    fn requests(&self) -> u64 {
        schedule::requests(self.rate, &self.phases())
    }
}

/// A model, and what is done to it.
struct Load<'a> {
    args: &'a LoadArgs,
    model: Model,
    meters: Meters,
    sentences: Sentences,
}

impl Load<'_> {
    fn warm_up(&self) -> Result<(), Error> {
        self.model.embedder.warm_up()?;
        // Tokenising and the prompt's keys and values are no part of the model's own warming up.
        let texts = self.sentences.next(self.args.texts.get());
        self.model.embedder.embed_with(&texts, &self.model.options).map(|_| ())
    }

    /// As the command line says.
    fn drive(&self) -> Drive {
        let LoadArgs { rate, texts, timeout, arrivals, limit, common, .. } = self.args;
        Drive {
            rate: *rate,
            phases: self.args.phases(),
            arrivals: *arrivals,
            texts: texts.get(),
            timeout: *timeout,
            limit: *limit,
            tell: !common.model.quiet(),
        }
    }

    fn measure(&self, drive: &Drive) -> (Report, Run) {
        let (before, memory) = (self.meters.batches(), Resident::read());
        let run = drive.run(&self.model, &self.sentences);
        let batches = self.meters.batches().since(before);
        let machine = Machine::new(self.model.embedder.info());
        (Report::new(drive, &run, batches, [memory, Resident::read()], machine), run)
    }

    /// An error where requests failed; those that were refused or late did what they were meant to.
    fn check(&self, run: &Run) -> Result<(), CliError> {
        match &run.tally.failure {
            None => Ok(()),
            Some(reason) => Err(CliError::Text {
                place: format!(
                    "{} of {} requests failed",
                    run.tally.counts.failed, run.tally.counts.requests
                ),
                reason: reason.clone(),
            }),
        }
    }

    fn search(&self) -> Result<Found, CliError> {
        let mut drive = Drive { tell: false, ..self.drive() };
        let timeout = drive.timeout.unwrap_or(SEARCH_TIMEOUT.max(10 * drive.limit));
        drive.timeout = Some(timeout);
        let mut found = Found {
            highest_rate: None,
            limit_ms: drive.limit.as_secs_f64() * 1e3,
            steps: Vec::new(),
            at_highest_rate: None,
        };
        self.say(&search::heading());
        let mut bisection = Bisection::new(drive.rate, drive.length());
        while let Some(rate) = bisection.next() {
            drive.rate = rate;
            let (report, run) = self.measure(&drive);
            self.check(&run)?;
            let under_limit = run.tally.is_under_limit();
            let step = Step::new(rate, &report, under_limit);
            self.say(&step.line());
            found.steps.push(step);
            if under_limit {
                found.highest_rate = Some(rate);
                found.at_highest_rate = Some(report);
            }
            bisection.learn(under_limit);
        }
        Ok(found)
    }

    /// Says how far a search is.
    fn say(&self, line: &str) {
        if !self.args.common.model.quiet() {
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}
