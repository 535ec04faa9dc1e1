//! Many mixed requests, with memory and latency over time.
//!
//! ```text
//! cargo bench --bench soak                                     # 200,000 requests: 50 minutes on two cores
//! cargo bench --bench soak -- --requests 4000 --output DIR     # results and threads; too few to judge memory
//! cargo bench --bench soak -- --leak 64                        # shows that a leak is found
//! ```
//!
//! Threads send short and long texts, several at once, prompts, token ids, requests with little time and requests that
//! nobody waits for, streams that end early, and bad input; each result is checked. Every second, or as often as a
//! hundredth of the requests is done, a line goes to `soak.csv`, which `benches/record/soak.py` draws.
//!
//! It fails if a result is wrong, if the process keeps threads, or if resident memory grows by more than
//! [`series::MOST_BYTES_PER_REQUEST`] for each request, by the median slope of all pairs of points after the first
//! fifth.

mod requests;
mod series;

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use mlx_embed::{Embedder, LoadOptions, Shutdown};

use requests::{Counts, Requests};
use series::{ENOUGH_REQUESTS, Point, Series, Window};

const THREADS: u64 = 16;

struct Arguments {
    requests: u64,
    output: PathBuf,
    /// Bytes to leak on purpose with every request.
    leak: usize,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut found = Arguments { requests: ENOUGH_REQUESTS, output: "target/soak".into(), leak: 0 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        // Cargo's own, for every benchmark.
        if name == "--bench" {
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--requests" => found.requests = value.parse()?,
            "--output" => found.output = value.into(),
            "--leak" => found.leak = value.parse()?,
            _ => return Err(format!("{name} is not known; there are --requests, --output and --leak").into()),
        }
    }
    Ok(found)
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { requests, output, leak } = arguments()?;
    // Small enough that the queue fills up and that both caches throw things out.
    let options = LoadOptions {
        queue_texts: std::num::NonZeroUsize::new(256),
        vector_cache: 1 << 20,
        prompt_cache: Some(1 << 20),
        ..Default::default()
    };
    let embedder = Embedder::default_model_with(options)?;
    let maker = Requests::new(&embedder)?;
    let (next, counts) = (AtomicU64::new(0), Counts::default());
    let window = Window::default();
    let start = Instant::now();
    let mut series = Series::default();
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            break;
                        }
                        maker.send(number, &counts, &window);
                        // `black_box`, so that what is never read is written all the same.
                        std::hint::black_box(Box::leak(vec![1_u8; leak].into_boxed_slice()));
                    }
                })
            })
            .collect();
        let mut told = 0;
        while workers.iter().any(|worker| !worker.is_finished()) {
            // As a point every second is too few for a short run.
            let due = Instant::now() + Duration::from_secs(1);
            while Instant::now() < due
                && counts.ended() < told + requests.div_ceil(100)
                && workers.iter().any(|worker| !worker.is_finished())
            {
                thread::sleep(Duration::from_millis(5));
            }
            told = counts.ended();
            series.points.push(Point::now(start.elapsed(), told, &window)?);
        }
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    maker.check_answer()?;
    if embedder.queued() != [0, 0] {
        return Err(format!("{:?} texts are still queued", embedder.queued()).into());
    }
    embedder.shut_down(Shutdown::Finish);

    let found = series.slope().ok_or("too few requests to see a slope; --requests gives more")?;
    let summary = format!("{requests} requests in {seconds:.0} s: {counts}\n{found}");
    println!("{summary}");
    fs::create_dir_all(&output)?;
    fs::write(output.join("soak.csv"), series.csv(&summary))?;
    println!("{0}/soak.csv; benches/record/soak.py {0}/soak.csv draws it", output.display());
    counts.check()?;
    series.check_threads()?;
    found.check()?;
    Ok(())
}
