//! A process that ends while its threads load, embed and compute ends with its own code, whatever they are doing.
//!
//! `MLX_EMBED_EXITS` is the number of processes for each mode.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use mlx_embed::mlx::{Array, Dtype, Stream, ops};
use mlx_embed::{Embedder, LoadOptions, Loading};

/// Names this program's part in a child, and what it does.
const MODE: &str = "MLX_EMBED_EXIT_MODE";

/// A process that takes longer to end hangs, also on a machine with other things to do.
const HANGS: Duration = Duration::from_secs(60);

fn exits() -> usize {
    std::env::var("MLX_EMBED_EXITS").map_or(20, |count| count.parse().unwrap())
}

/// Runs `mode` as often as asked for, at different moments, half of the time to the end of `main` and else to an `exit`
/// with a code.
fn ends_with_its_own_code(mode: &str) {
    for round in 0..exits() {
        let code = if round % 2 == 0 { 0 } else { 7 };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--test-threads=1", "--nocapture"])
            .env(MODE, format!("{mode} {code} {}", round * 3 % 40))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let Output { status, stdout, stderr } = finish(child, mode);
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!(status.code(), Some(code), "{mode}, round {round}: {status}\n{said}");
        assert!(said.contains("works"), "{mode}, round {round}: {said}");
    }
}

fn finish(mut child: Child, mode: &str) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > HANGS {
            child.kill().unwrap();
            panic!("{mode}: did not end in {HANGS:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

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
        embedder.embed(&["the cat sat on the mat", "a second text"]).unwrap();
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

#[test]
#[ignore = "a child of the others"]
fn child() {
    let Ok(task) = std::env::var(MODE) else { return };
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
                load(None).embed(&["x"]).unwrap();
                works.store(true, Ordering::SeqCst);
            },
            "background" => {
                for _ in 0..4 {
                    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/qwen3-affine-4bit-g64");
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
    println!("works");
    thread::sleep(Duration::from_millis(wait.parse().unwrap()));
    match code {
        "0" => {}
        code => std::process::exit(code.parse().unwrap()),
    }
}

#[test]
fn while_an_embedder_embeds() {
    ends_with_its_own_code("embedder");
}

#[test]
fn while_embedders_compute_with_operations_of_mlx() {
    ends_with_its_own_code("embedder-mlx");
}

#[test]
fn while_an_embedder_in_a_static_embeds() {
    ends_with_its_own_code("static");
}

#[test]
fn while_threads_evaluate_arrays() {
    ends_with_its_own_code("arrays");
}

#[test]
fn while_models_are_loaded_and_dropped() {
    ends_with_its_own_code("load");
}

#[test]
fn while_models_are_loaded_in_the_background() {
    ends_with_its_own_code("background");
}
