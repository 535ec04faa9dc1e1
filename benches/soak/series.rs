//! What is measured over time, and what it says about memory.

use std::fmt;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use mlx_embed::mlx::memory;

/// Growth that fails the run. The smallest things that a request makes are larger: a ticket is a few hundred bytes, a
/// vector 1,536, a text's tokens 4 each. So one that is left behind by every tenth request shows, while the allocator's
/// own wandering, a few MB, is under it over [`ENOUGH_REQUESTS`].
pub(crate) const MOST_BYTES_PER_REQUEST: f64 = 16.0;

/// Requests from which on the allocator's wandering stays under that; fewer may fail without a leak.
pub(crate) const ENOUGH_REQUESTS: u64 = 200_000;

/// Share of the requests after which caches, arenas and stacks have their size.
const WARM_UP: f64 = 0.2;

/// Latencies since the last point.
#[derive(Default)]
pub(crate) struct Window(Mutex<Vec<Duration>>);

impl Window {
    pub(crate) fn record(&self, latency: Duration) {
        if let Ok(mut latencies) = self.0.lock() {
            latencies.push(latency);
        }
    }

    /// Quantiles in milliseconds, and forgets them.
    fn take(&self) -> [Option<f64>; 3] {
        let mut latencies =
            self.0.lock().map(|mut latencies| std::mem::take(&mut *latencies)).unwrap_or_default();
        latencies.sort_unstable();
        [0.5, 0.95, 0.99].map(|q| {
            let last = latencies.len().checked_sub(1)?;
            Some(latencies[(last as f64 * q) as usize].as_secs_f64() * 1e3)
        })
    }
}

/// A moment of the run.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) mlx_active_bytes: usize,
    pub(crate) mlx_cached_bytes: usize,
    pub(crate) threads: u64,
    /// Of requests of one short text: P50, P95, P99.
    pub(crate) latency_ms: [Option<f64>; 3],
}

impl Point {
    pub(crate) fn now(
        since: Duration,
        requests: u64,
        window: &Window,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let status = fs::read_to_string("/proc/self/status")?;
        let number = |name: &str| -> io::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
                .ok_or_else(|| io::Error::other(format!("/proc/self/status has no {name}")))
        };
        Ok(Self {
            seconds: since.as_secs_f64(),
            requests,
            resident_bytes: number("VmRSS:")? * 1024,
            mlx_active_bytes: memory::active()?,
            mlx_cached_bytes: memory::cached()?,
            threads: number("Threads:")?,
            latency_ms: window.take(),
        })
    }
}

/// The run.
#[derive(Default)]
pub(crate) struct Series {
    pub(crate) points: Vec<Point>,
}

/// How resident memory grew after the warm-up.
pub(crate) struct Slope {
    requests: u64,
    bytes_per_request: f64,
    points: usize,
    first_bytes: u64,
    last_bytes: u64,
}

impl Series {
    fn after_warm_up(&self) -> &[Point] {
        let all = self.points.last().map_or(0, |point| point.requests);
        let first = self.points.iter().position(|point| point.requests as f64 >= all as f64 * WARM_UP);
        &self.points[first.unwrap_or(self.points.len())..]
    }

    /// The median slope between any two points (Theil and Sen's): no single peak moves it.
    pub(crate) fn slope(&self) -> Option<Slope> {
        let points = self.after_warm_up();
        if points.len() < 20 {
            return None;
        }
        let mut slopes: Vec<f64> = Vec::new();
        for (index, early) in points.iter().enumerate() {
            for late in &points[index + 1..] {
                if late.requests > early.requests {
                    let bytes = late.resident_bytes as f64 - early.resident_bytes as f64;
                    slopes.push(bytes / (late.requests - early.requests) as f64);
                }
            }
        }
        slopes.sort_unstable_by(f64::total_cmp);
        Some(Slope {
            requests: points.last()?.requests,
            bytes_per_request: *slopes.get(slopes.len() / 2)?,
            points: points.len(),
            first_bytes: points.first()?.resident_bytes,
            last_bytes: points.last()?.resident_bytes,
        })
    }

    /// Fails if there are more threads at the end than after the warm-up.
    pub(crate) fn check_threads(&self) -> Result<(), String> {
        let counts: Vec<u64> = self.after_warm_up().iter().map(|point| point.threads).collect();
        match (counts.first(), counts.last()) {
            (Some(first), Some(last)) if last > first => Err(format!("{first} threads became {last}")),
            _ => Ok(()),
        }
    }

    pub(crate) fn csv(&self, summary: &str) -> String {
        let mut text: String = summary.lines().map(|line| format!("# {line}\n")).collect();
        text += "seconds,requests,resident_bytes,mlx_active_bytes,mlx_cached_bytes,threads,p50_ms,p95_ms,p99_ms\n";
        for point in &self.points {
            let Point {
                seconds, requests, resident_bytes, mlx_active_bytes, mlx_cached_bytes, threads, ..
            } = point;
            let latencies =
                point.latency_ms.map(|ms| ms.map_or(String::new(), |ms| format!("{ms:.3}"))).join(",");
            text += &format!(
                "{seconds:.2},{requests},{resident_bytes},{mlx_active_bytes},{mlx_cached_bytes},{threads},{latencies}\n"
            );
        }
        text
    }
}

impl Slope {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.bytes_per_request <= MOST_BYTES_PER_REQUEST {
            return Ok(());
        }
        let mut why = format!("memory grows by more than {MOST_BYTES_PER_REQUEST} bytes a request");
        if self.requests < ENOUGH_REQUESTS {
            why += &format!(
                "; {} requests don't tell that from the allocator's wandering, a few MB: {ENOUGH_REQUESTS} do",
                self.requests
            );
        }
        Err(why)
    }
}

impl fmt::Display for Slope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "resident memory {:.1} MiB after the first fifth, {:.1} MiB at the end; median slope {:.1} bytes a request \
             ({} points), allowed {MOST_BYTES_PER_REQUEST}",
            mib(self.first_bytes),
            mib(self.last_bytes),
            self.bytes_per_request,
            self.points
        )
    }
}
