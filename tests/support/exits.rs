//! A program that ends while its threads load, embed and compute, for `tests/exit.rs`.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test's helper fails its test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use mlx_embed::mlx::{Array, Dtype, Stream, ops};
use mlx_embed::{Embedder, LoadOptions, Loading};

/// Names the environment variable that says what the program does.
pub const TASK: &str = "MLX_EMBED_EXIT_TASK";

/// What takes longer hangs, also on a machine with other things to do.
pub const HANGS: Duration = Duration::from_secs(60);

/// What the program prints before the nanoseconds, since 1970, at which it left.
pub const LEAVES: &str = "leaves at ";

static EMBEDDER: LazyLock<Embedder> = LazyLock::new(|| load(None));
static STARTED: Mutex<Vec<Loading>> = Mutex::new(Vec::new());

fn load(kernels: Option<&str>) -> Embedder {
    let kernels = kernels.map(str::to_owned);
    Embedder::default_model_with(LoadOptions { kernels, ..Default::default() }).unwrap()
}

struct Copy;

impl HostKernel for Copy {
    fn name(&self) -> &str {
        "copy"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        Ok(outputs[0].copy_from_slice(&inputs[0].to_vec::<f32>()?)?)
    }
}

fn embeds_for_ever(embedder: &Embedder, works: &AtomicBool) {
    loop {
        embedder.embed(["the cat sat on the mat", "a second text"]).unwrap();
        works.store(true, Ordering::SeqCst);
    }
}

fn computes_for_ever(works: &AtomicBool) {
    let stream = Stream::cpu().unwrap();
    let a = Array::from_slice(&[0.01_f32; 64 * 64], &[64, 64]).unwrap();
    loop {
        let mut x = a.clone();
        for _ in 0..30 {
            let turned = ops::transpose(&x, &[1, 0], &stream).unwrap();
            x = ops::matmul(&turned, &a, &stream).unwrap();
        }
        let output = OutputSpec::new(&[64, 64], Dtype::F32);
        let [copy] = host_kernel(Arc::new(Copy), &[&x], [output], &stream).unwrap();
        copy.eval().unwrap();
        works.store(true, Ordering::SeqCst);
    }
}

/// Does what [`TASK`] says, a mode, an exit code and milliseconds to go on: returns if the code is 0.
pub fn run(task: &str) {
    let [mode, code, wait] = task.split(' ').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let works = Arc::new(AtomicBool::new(false));
    let threads = if matches!(mode, "arrays" | "embedder-mlx") { 3 } else { 1 };
    let (sender, receiver) = mpsc::channel();
    for _ in 0..threads {
        let (works, mode, sender) = (Arc::clone(&works), mode.to_owned(), sender.clone());
        thread::spawn(move || match mode.as_str() {
            "embedder" => embeds_for_ever(&load(None), &works),
            "embedder-mlx" => embeds_for_ever(&load(Some("mlx")), &works),
            "static" => embeds_for_ever(&EMBEDDER, &works),
            "arrays" => computes_for_ever(&works),
            "load" => loop {
                load(None).embed(["x"]).unwrap();
                works.store(true, Ordering::SeqCst);
            },
            "background" => {
                for _ in 0..4 {
                    let dir = crate::golden::directory("qwen3-affine-4bit-g64");
                    STARTED.lock().unwrap().push(Embedder::load_in_background(dir, LoadOptions::default()));
                }
                works.store(true, Ordering::SeqCst);
            }
            other => sender.send(other.to_owned()).unwrap(),
        });
    }
    let start = Instant::now();
    while !works.load(Ordering::SeqCst) {
        assert!(start.elapsed() < HANGS, "{mode} does not work");
        assert!(receiver.try_recv().is_err(), "no such mode: {mode}");
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(wait.parse().unwrap()));
    println!("{LEAVES}{}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    match code {
        "0" => {}
        code => std::process::exit(code.parse().unwrap()),
    }
}
