//! The engine under a real model: many threads, requests that are dropped or late, futures, streams, and its ends.

use std::cell::Cell;
use std::future::{self, Future};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mlx_embed::{
    EmbedOptions, Embedder, Embedding, Error, InputError, Lane, LoadOptions, MultiVectorEmbedder,
    PoolingMode, Prompt, RerankOptions, Reranker, Role, Shutdown, SparseEmbedder, State, WhenFull,
};
use mlx_embed_tests::compare::{max_abs, says};
use mlx_embed_tests::golden::{self, Golden};

const CASE: &str = "qwen3-affine-4bit-g64";

fn texts() -> Vec<String> {
    Golden::read(CASE).texts.into_iter().map(|text| text.text).collect()
}

fn load_with(change: impl FnOnce(&mut LoadOptions)) -> Embedder {
    golden::load_with(CASE, change)
}

fn load() -> Embedder {
    golden::load(CASE)
}

fn assert_same(found: &[f32], expected: &[f32]) {
    let tolerance = if golden::on_gpu() { 2e-2 } else { 1e-6 };
    assert!(max_abs(found, expected) <= tolerance);
}

/// Numbers without a pattern, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn more_texts_than_memory_could_answer_are_refused() {
    #[derive(Clone, Copy)]
    struct Cat;
    impl AsRef<str> for Cat {
        fn as_ref(&self) -> &str {
            "cat"
        }
    }
    let (embedder, options) = (load(), EmbedOptions::default());
    // Some systems promise memory that they don't have, and end the process that uses it.
    let texts: [&[Cat]; 2] = [&[Cat; (1 << 24) + 1], &[Cat; 1 << 40]];
    for texts in texts {
        let refused = embedder.submit(texts, &options).wait();
        says(refused.unwrap_err(), &["texts are", &texts.len().to_string(), "iterator"]);
    }
    assert_eq!(embedder.submit(&[Cat; 3], &options).wait().unwrap().len(), 3);
}

#[test]
fn sixty_four_threads_get_the_answers_of_one() {
    let (embedder, texts) = (load(), texts());
    let expected: Vec<Embedding> = texts.iter().map(|text| embedder.embed_one(text).unwrap()).collect();
    let per_thread = if golden::on_gpu() { 50 } else { 1000 };
    let outcomes: Vec<[usize; 3]> = thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|thread| {
                let (embedder, texts, expected) = (embedder.clone(), &texts, &expected);
                scope.spawn(move || {
                    let mut random = Random(0x9e37_79b9 + thread);
                    let mut count = [0; 3];
                    for _ in 0..per_thread {
                        count[mixed_request(&embedder, texts, expected, &mut random)] += 1;
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let total = |kind: usize| outcomes.iter().map(|count| count[kind]).sum::<usize>();
    let [answered, late, dropped] = [0, 1, 2].map(total);
    assert_eq!(answered + late + dropped, 64 * per_thread);
    assert!(answered > 0 && late > 0 && dropped > 0, "{answered} answered, {late} late, {dropped} dropped");
    assert_eq!((embedder.state(), embedder.queued()), (State::Running, [0, 0]));
}

/// A request of one to four texts, waited for, awaited or dropped, with a timeout or without. 0: answered, 1: late,
/// 2: dropped.
fn mixed_request(
    embedder: &Embedder,
    texts: &[String],
    expected: &[Embedding],
    random: &mut Random,
) -> usize {
    let chosen: Vec<usize> = (0..1 + random.below(4)).map(|_| random.below(texts.len())).collect();
    let request: Vec<&String> = chosen.iter().map(|&text| &texts[text]).collect();
    let options = EmbedOptions {
        lane: [Lane::Auto, Lane::Bulk][random.below(2)],
        timeout: [None, Some(Duration::from_micros(50)), Some(Duration::from_secs(60))][random.below(3)],
        when_full: Some(WhenFull::Wait),
        ..Default::default()
    };
    let result = match random.below(4) {
        0 => embedder.embed_with(&request, &options),
        1 => embedder.submit(&request, &options).wait(),
        2 => pollster::block_on(embedder.submit(&request, &options)),
        _ => {
            let mut pending = embedder.submit(&request, &options);
            if random.below(2) == 0 {
                let polled = std::pin::Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(result) = polled {
                    return check(result, &chosen, expected);
                }
            }
            drop(pending);
            return 2;
        }
    };
    check(result, &chosen, expected)
}

fn check(result: Result<Vec<Embedding>, Error>, chosen: &[usize], expected: &[Embedding]) -> usize {
    match result {
        Ok(found) => {
            assert_eq!(found.len(), chosen.len());
            for (found, &text) in found.iter().zip(chosen) {
                assert_same(&found.vector, &expected[text].vector);
                assert_eq!(found.tokens, expected[text].tokens);
            }
            0
        }
        Err(Error::DeadlineExceeded { .. }) => 1,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn futures_need_no_runtime_and_come_in_any_order() {
    let (embedder, texts) = (load(), texts());
    let expected = embedder.embed(&texts).unwrap();
    let options = EmbedOptions::default();
    let mut pending: Vec<_> = texts.iter().map(|text| embedder.submit_one(text, &options)).collect();
    for expected in expected.iter().rev() {
        let found = pollster::block_on(pending.pop().unwrap()).unwrap();
        assert_same(&found.vector, &expected.vector);
    }
}

#[test]
fn much_text_is_tokenised_on_another_thread_and_comes_out_the_same() {
    let embedder = load();
    let text = "many words ".repeat(2000);
    let options = EmbedOptions::default();
    let expected = embedder.embed_one(&text).unwrap();
    let found = pollster::block_on(embedder.submit_one(&text, &options)).unwrap();
    assert_eq!((found.tokens, found.truncated), (expected.tokens, expected.truncated));
    assert_same(&found.vector, &expected.vector);
}

#[test]
fn wrong_options_come_as_the_requests_result() {
    let embedder = load();
    let prompt = EmbedOptions { prompt: Prompt::Named("nonesuch".into()), ..Default::default() };
    assert!(matches!(embedder.submit(&["x"], &prompt).wait(), Err(Error::Text(_))));
    let dims = EmbedOptions { dims: std::num::NonZeroUsize::new(1 << 20), ..Default::default() };
    assert!(matches!(pollster::block_on(embedder.submit_one("x", &dims)), Err(Error::Option { .. })));
    assert!(matches!(embedder.check_options(&dims), Err(Error::Option { option: "dims", .. })));
    assert!(matches!(embedder.embed_iter(["x"], &dims).next(), Some(Err(Error::Option { .. }))));
    let none: [&str; 0] = [];
    assert!(matches!(embedder.embed_with(&none, &dims), Err(Error::Option { .. })));
}

#[test]
fn results_tell_what_became_of_a_text() {
    let embedder = load_with(|options| options.max_tokens = Some(4));
    let start = Instant::now();
    let found = embedder.embed_one("rather more than four tokens of text").unwrap();
    let took = start.elapsed();
    assert_eq!((found.tokens, found.truncated, found.cached), (4, true, false));
    assert!(found.device_time > Duration::ZERO && found.queue_time + found.device_time <= took);
}

#[test]
fn an_iterator_that_panics_ends_its_results() {
    let embedder = load();
    let drawn = Cell::new(0);
    let texts = std::iter::from_fn(|| {
        drawn.set(drawn.get() + 1);
        assert!(drawn.get() != 5, "an iterator's own panic");
        (drawn.get() < 9).then(|| format!("text {}", drawn.get()))
    });
    let mut results = embedder.embed_iter(texts, &EmbedOptions::default());
    let next = std::panic::AssertUnwindSafe(|| results.next());
    assert!(std::panic::catch_unwind(next).is_err());
    assert!(results.next().is_none(), "the next text's vector would pass for the first one's");
    assert_eq!(drawn.get(), 5);
}

#[test]
fn a_request_that_is_over_before_it_began_is_an_error() {
    let embedder = load();
    let options = EmbedOptions { timeout: Some(Duration::ZERO), ..Default::default() };
    for _ in 0..10 {
        assert!(matches!(embedder.embed_with(&["x"], &options), Err(Error::DeadlineExceeded { .. })));
    }
    let forever = EmbedOptions { timeout: Some(Duration::MAX), ..Default::default() };
    embedder.embed_with(&["x"], &forever).unwrap();
}

mod streams {
    use futures_core::Stream;

    use super::*;

    /// What awaits each of a stream's items.
    struct Awaited<S>(S);

    impl<S: Stream + Unpin> Iterator for Awaited<S> {
        type Item = S::Item;

        fn next(&mut self) -> Option<S::Item> {
            pollster::block_on(future::poll_fn(|context| Pin::new(&mut self.0).poll_next(context)))
        }
    }

    type Found = Box<dyn Iterator<Item = Result<Embedding, Error>>>;

    /// The two ways to go through an iterator's texts.
    fn both<T: AsRef<str> + 'static>(
        embedder: &Embedder,
        texts: impl Iterator<Item = T> + Clone + 'static,
    ) -> [Found; 2] {
        let options = EmbedOptions::default();
        let stream = embedder.embed_stream(texts.clone(), &options);
        [Box::new(embedder.embed_iter(texts, &options)), Box::new(Awaited(stream))]
    }

    #[test]
    fn a_streams_embeddings_come_in_order() {
        let (embedder, texts) = (load(), texts());
        let expected = embedder.embed(&texts).unwrap();
        for found in both(&embedder, texts.clone().into_iter().cycle().take(1500)) {
            let found: Vec<_> = found.map(Result::unwrap).collect();
            assert_eq!(found.len(), 1500);
            for (index, found) in found.iter().enumerate() {
                assert_same(&found.vector, &expected[index % texts.len()].vector);
            }
        }
    }

    #[test]
    fn a_stream_is_drawn_only_as_fast_as_it_is_embedded() {
        let embedder = load();
        let drawn = Rc::new(Cell::new(0_usize));
        let counter = Rc::clone(&drawn);
        let source = (0..).map(move |index| {
            counter.set(counter.get() + 1);
            format!("text {index}")
        });
        for mut stream in both(&embedder, source) {
            drawn.set(0);
            for taken in 1..=2000 {
                stream.next().unwrap().unwrap();
                assert!(drawn.get() <= taken + 1024, "{} drawn for {taken} taken", drawn.get());
            }
        }
    }

    #[test]
    fn a_text_that_fails_does_not_end_a_stream() {
        // A model that adds nothing, so that an empty text has no tokens.
        let mean = |options: &mut LoadOptions| options.pooling = Some(PoolingMode::Mean.into());
        let embedder = golden::load_with("plain-tokenizer", mean);
        for found in both(&embedder, ["a", "", "b"].into_iter()) {
            let found: Vec<_> = found.collect();
            assert!(found.len() == 3 && found[0].is_ok() && found[2].is_ok());
            assert!(matches!(found[1], Err(Error::Input { index: 1, source: InputError::Empty })));
        }
        assert!(both(&embedder, ["a"; 0].into_iter()).into_iter().all(|found| found.count() == 0));
    }

    #[test]
    fn a_stream_ends_with_the_embedder() {
        for which in 0..2 {
            let embedder = load();
            let [iter, stream] = both(&embedder, std::iter::repeat("on and on"));
            let mut stream = if which == 0 { iter } else { stream };
            stream.next().unwrap().unwrap();
            embedder.shut_down(Shutdown::Return);
            let error = stream.find_map(Result::err).unwrap();
            assert!(matches!(error, Error::Stopped { .. }));
            assert!(stream.next().is_none());
        }
    }

    #[test]
    fn a_call_with_many_texts_is_sent_in_parts_and_comes_back_whole() {
        let (embedder, texts) = (load(), texts());
        let expected = embedder.embed(&texts).unwrap();
        let many: Vec<&String> = texts.iter().cycle().take(1000).collect();
        for (index, found) in embedder.embed(&many).unwrap().iter().enumerate() {
            assert_same(&found.vector, &expected[index % texts.len()].vector);
        }
        let hurried = EmbedOptions { timeout: Some(Duration::from_millis(1)), ..Default::default() };
        let many: Vec<String> = (0..20_000).map(|index| format!("number {index}")).collect();
        assert!(matches!(embedder.embed_with(&many, &hurried), Err(Error::DeadlineExceeded { .. })));
    }
}

mod cache {
    use super::*;

    #[test]
    fn a_text_that_comes_again_is_at_hand_whatever_the_options() {
        let embedder = load_with(|options| options.vector_cache = 1 << 20);
        let first = embedder.embed_one("twice").unwrap();
        let again = embedder.embed_one("twice").unwrap();
        assert!(!first.cached && again.cached && again.device_time.is_zero());
        assert_eq!(first.vector, again.vector);
        let options = EmbedOptions {
            dims: std::num::NonZeroUsize::new(8),
            normalize: Some(false),
            ..Default::default()
        };
        let cut = embedder.embed_with(&["twice"], &options).unwrap().remove(0);
        assert!(cut.cached);
        let plain = load().embed_with(&["twice"], &options).unwrap().remove(0);
        assert_same(&cut.vector, &plain.vector);
    }

    #[test]
    fn without_one_nothing_is_kept() {
        let embedder = load();
        assert!(!embedder.embed_one("twice").unwrap().cached);
        assert!(!embedder.embed_one("twice").unwrap().cached);
    }

    #[test]
    fn another_prompt_is_another_text() {
        let embedder = load_with(|options| options.vector_cache = 1 << 20);
        let with = |prompt: &str| {
            let options = EmbedOptions { prompt: Prompt::Text(prompt.into()), ..Default::default() };
            embedder.embed_with(&["text"], &options).unwrap().remove(0)
        };
        let (plain, prompted) = (with(""), with("Query: "));
        assert!(!prompted.cached);
        assert_ne!(plain.vector, prompted.vector);
    }
}

mod prompts {
    use super::*;

    const INSTRUCTION: &str = "Instruct: Given a question, retrieve passages that answer the question, whatever their length.\nQuery: ";

    /// Vectors of `texts` behind the instruction, each asked for alone and then all together, three times: the first
    /// computes the prompt, later ones continue it.
    fn vectors(case: &str, room: Option<usize>) -> Vec<Vec<f32>> {
        let embedder = golden::load_with(case, |options| options.prompt_cache = room);
        let options = EmbedOptions { prompt: Prompt::Text(INSTRUCTION.into()), ..Default::default() };
        let embed = |texts: &[&str]| {
            let found = embedder.embed_with(texts, &options).expect("texts are embedded");
            found.into_iter().map(|found| found.vector)
        };
        // The last one's first letters may merge with the prompt's end.
        let texts = ["where do cats sleep?", "a", "", "many words ", "\u{301}accent"];
        let mut found = Vec::new();
        for _ in 0..3 {
            for text in texts {
                found.extend(embed(&[text]));
            }
            found.extend(embed(&texts));
        }
        found
    }

    #[test]
    fn texts_behind_a_prompt_have_the_vectors_of_whole_ones() {
        let kept = [CASE, "qwen2-f32", "st-mean", "st-cls", "qwen3-rope-dynamic", "llama-f32"];
        // One that is too large to keep is computed with each text.
        for (case, room) in kept.map(|case| (case, None)).into_iter().chain([(CASE, Some(1000))]) {
            let whole = vectors(case, Some(0));
            let continued = vectors(case, room);
            assert_eq!(whole.len(), continued.len());
            for (whole, continued) in whole.iter().zip(&continued) {
                assert_same(continued, whole);
            }
        }
    }
}

mod bounds {
    use serde_json::json;

    use super::*;
    use mlx_embed_tests::scratch::Scratch;

    /// A checkpoint with a tokenizer that tries the same thing over and over: its library gives some texts up after a
    /// second or so, and no text can be known from its beginning.
    fn slow_to_tokenize() -> (Scratch, String) {
        let scratch = Scratch::of(CASE);
        scratch.edit_json("tokenizer.json", |tokenizer| {
            tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "(a|a|aa)+$"});
        });
        (scratch, format!("{}b{}", "a".repeat(50), " ".repeat(100_000)))
    }

    #[test]
    fn a_text_over_the_limit_fails_alone_and_says_so() {
        let embedder = load_with(|options| options.max_text_bytes = std::num::NonZeroUsize::new(5000));
        assert_eq!(embedder.info().max_text_bytes, 5000);
        let texts = ["x".to_owned(), "y".repeat(5001), "many words ".repeat(400)];
        let options = EmbedOptions::default();
        let calls = [
            embedder.embed_each(&texts, &options),
            embedder.submit_each(&texts, &options).wait(),
            embedder.submit_each(&texts[..2], &options).wait(),
        ];
        for results in calls {
            let results = results.unwrap();
            let expected = InputError::TooManyBytes { bytes: 5001, max_bytes: 5000 };
            assert_eq!(results[1].as_ref().unwrap_err(), &expected);
            assert!(results.iter().enumerate().all(|(index, result)| index == 1 || result.is_ok()));
        }
        let prompt = EmbedOptions { prompt: Prompt::Text("p".repeat(4996)), ..Default::default() };
        assert!(embedder.embed_with(&["1234"], &prompt).is_ok());
        let error = embedder.embed_with(&["12345"], &prompt).unwrap_err();
        assert!(error.to_string().contains("5001 bytes, prompt included"), "{error}");
        assert!(matches!(embedder.token_ids("12345", &prompt), Err(Error::Input { index: 0, .. })));
    }

    #[test]
    fn texts_that_wait_to_be_tokenised_are_bounded() {
        let one = std::num::NonZeroUsize::new(1);
        for (queue_texts, queue_bytes) in [(one, None), (None, one)] {
            let change = |options: &mut LoadOptions| {
                (options.queue_texts, options.queue_bytes) = (queue_texts, queue_bytes);
            };
            let embedder = load_with(change);
            let text = "many words ".repeat(10_000);
            let options = EmbedOptions::default();
            let pending: Vec<_> = (0..200).map(|_| embedder.submit_one(&text, &options)).collect();
            let mut refused = 0;
            for result in pending.into_iter().map(|pending| pending.wait()) {
                match result {
                    Ok(_) => {}
                    Err(Error::QueueFull { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(refused > 0 && refused < 200, "{refused} of 200 refused");
            assert_eq!(embedder.queued(), [0, 0]);
        }
    }

    #[test]
    fn a_call_returns_at_its_timeout_also_while_its_text_is_tokenised() {
        let (scratch, slow) = slow_to_tokenize();
        let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
        let options = EmbedOptions { timeout: Some(Duration::from_millis(20)), ..Default::default() };
        // Had it been waited for, it would have been the tokenizer's own error.
        let is_late =
            |result: Result<Embedding, Error>| matches!(result, Err(Error::DeadlineExceeded { .. }));
        assert!(is_late(embedder.embed_with(&[&slow], &options).map(|mut all| all.remove(0))));
        assert!(is_late(embedder.submit_one(&slow, &options).wait()));
        assert!(is_late(pollster::block_on(embedder.submit_one(&slow, &options))));
    }

    #[test]
    fn nobody_waits_behind_a_text_that_takes_long_to_tokenise() {
        let (scratch, slow) = slow_to_tokenize();
        let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
        let options = EmbedOptions::default();
        let slow: Vec<_> = (0..8).map(|_| embedder.submit_one(&slow, &options)).collect();
        let query = embedder.submit_one("b".repeat(3000), &options);
        query.wait().unwrap();
        assert!(slow.iter().any(|slow| !slow.is_done()), "it waited for all of them");
        drop(slow);
    }
}

mod life {
    use super::*;

    #[test]
    fn finishing_embeds_what_is_still_being_tokenised_or_sent() {
        let embedder = load();
        let text = "many words ".repeat(600);
        let options = EmbedOptions::default();
        let pending: Vec<_> = (0..20).map(|_| embedder.submit_one(&text, &options)).collect();
        let many: Vec<String> = (0..3000).map(|index| format!("number {index}")).collect();
        thread::scope(|scope| {
            let call = scope.spawn(|| embedder.embed(&many).unwrap().len());
            // Where this thread never runs while the texts wait, they are embedded already.
            while embedder.queued()[1] == 0 && !call.is_finished() {
                thread::yield_now();
            }
            embedder.shut_down(Shutdown::Finish);
            assert_eq!(call.join().unwrap(), 3000);
        });
        for pending in pending {
            assert!(pending.wait().unwrap().tokens > 0);
        }
    }

    #[test]
    fn shutting_down_under_load_loses_no_request() {
        for ending in [Shutdown::Finish, Shutdown::Return] {
            let (embedder, texts) = (load(), texts());
            let counts: Vec<[usize; 2]> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|thread| {
                        let (embedder, texts) = (embedder.clone(), &texts);
                        scope.spawn(move || {
                            let mut count = [0, 0];
                            let mut pending = Vec::new();
                            for index in thread.. {
                                let text = &texts[index % texts.len()];
                                pending.push(embedder.submit_one(text, &EmbedOptions::default()));
                                if embedder.state() != State::Running {
                                    break;
                                }
                            }
                            for request in pending {
                                match request.wait() {
                                    Ok(_) => count[0] += 1,
                                    Err(Error::Stopped { .. } | Error::QueueFull { .. }) => count[1] += 1,
                                    Err(error) => panic!("{error}"),
                                }
                            }
                            count
                        })
                    })
                    .collect();
                // Once something was done under this load, however long that takes here.
                while let Err(error) = embedder.embed_one("in between") {
                    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
                    thread::yield_now();
                }
                embedder.shut_down(ending);
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(counts.iter().all(|[done, refused]| done + refused > 0), "{counts:?}");
            assert_eq!(embedder.state(), State::ShutDown);
            let error = embedder.embed_one("after").unwrap_err();
            assert_eq!(error.to_string(), "the embedder has stopped: it was shut down");
        }
    }

    #[test]
    fn a_request_outlives_the_last_handle() {
        let embedder = load();
        let expected = embedder.embed_one("still wanted").unwrap().vector;
        let pending = embedder.submit_one("still wanted", &EmbedOptions::default());
        drop(embedder);
        assert_same(&pending.wait().unwrap().vector, &expected);
    }

    #[test]
    fn the_last_handle_may_go_in_any_state() {
        // Idle.
        drop(load());
        // Busy, with requests that nobody waits for.
        let (embedder, texts) = (load(), texts());
        for _ in 0..50 {
            drop(embedder.submit(&texts, &EmbedOptions::default()));
        }
        drop(embedder);
        // While text is still tokenised.
        let embedder = load();
        let pending = embedder.submit_one("many words ".repeat(5000), &EmbedOptions::default());
        drop(embedder);
        drop(pending);
        // Shut down.
        let embedder = load();
        embedder.shut_down(Shutdown::Finish);
        embedder.clone().shut_down(Shutdown::Return);
        drop(embedder);
        // While it is loaded.
        drop(Embedder::load_in_background(golden::directory(CASE), golden::load_options()));
        // On another thread, in the middle of a call.
        let embedder = load();
        let other = embedder.clone();
        let calls = thread::spawn(move || other.embed(&texts).unwrap().len());
        drop(embedder);
        assert!(calls.join().unwrap() > 0);
    }

    #[test]
    fn one_embedder_that_ends_disturbs_no_other() {
        let (gone, stays) = (load(), load());
        gone.shut_down(Shutdown::Return);
        stays.embed_one("here").unwrap();
        assert_eq!((gone.state(), stays.state()), (State::ShutDown, State::Running));
    }

    #[test]
    fn loading_in_the_background_tells_how_far_it_is() {
        let loading = Embedder::load_in_background(golden::directory(CASE), golden::load_options());
        let mut last = 0;
        while !loading.is_done() {
            let progress = loading.progress();
            assert!(progress.layers >= last && (progress.of == 0 || progress.layers <= progress.of));
            last = progress.layers;
            thread::yield_now();
        }
        let progress = loading.progress();
        assert!(progress.of > 0 && progress.layers == progress.of);
        loading.wait().unwrap().embed_one("loaded").unwrap();
        let awaited = Embedder::load_in_background(golden::directory(CASE), golden::load_options());
        pollster::block_on(awaited).unwrap();
    }

    /// What all handles have is one macro's, so each is called here.
    #[test]
    fn every_handle_loads_in_the_background_warms_up_and_ends() {
        macro_rules! lives {
            ($handle:ident, $case:literal, |$model:ident, $options:ident| $call:expr) => {
                let $options = EmbedOptions::default();
                let loading = $handle::load_in_background(golden::directory($case), golden::own_limit());
                let $model = loading.wait().unwrap();
                let runs = $model.warm_up().unwrap();
                assert!(!runs.is_empty() && runs.iter().all(|run| run.tokens > 0), $case);
                let results: Vec<Result<_, _>> = $call.wait().unwrap();
                assert!(matches!(&results[..], [Ok(_)]), $case);
                assert_eq!(($model.queued(), $model.state()), ([0, 0], State::Running), $case);
                assert_eq!($model.weights_sha256().unwrap().len(), 1, $case);
                $model.shut_down(Shutdown::Return);
                assert_eq!($model.state(), State::ShutDown, $case);
                assert!($call.wait().is_err(), $case);
            };
        }
        lives!(Embedder, "families/bert-f32", |model, options| model.submit_each(&["text"], &options));
        lives!(SparseEmbedder, "families/splade-bert", |model, options| model
            .submit_each(&["text"], &options));
        lives!(MultiVectorEmbedder, "families/late-interaction-bert", |model, options| model.submit_each(
            &["text"],
            Role::Query,
            &options
        ));
        lives!(Reranker, "families/reranker-bert-identity", |model, _options| model.submit_each(
            "query",
            &["text"],
            &RerankOptions::default()
        ));
    }

    #[test]
    fn what_can_not_be_loaded_in_the_background_says_why() {
        let loading = Embedder::load_in_background("no/such/directory", LoadOptions::default());
        let error = pollster::block_on(loading).unwrap_err();
        assert!(error.to_string().contains("no/such/directory"), "{error}");
    }

    #[test]
    fn warming_up_tells_what_ran() {
        let embedder = load();
        let runs = embedder.warm_up().unwrap();
        assert!(!runs.is_empty());
        assert!(runs.iter().all(|run| run.texts > 0 && run.tokens > 0 && run.again > Duration::ZERO));
        embedder.embed_one("warm").unwrap();
    }

    #[test]
    fn the_weights_hash_is_that_of_the_file() {
        use sha2::{Digest, Sha256};
        let file = std::fs::read(golden::directory(CASE).join("model.safetensors")).unwrap();
        let expected: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(load().weights_sha256().unwrap(), [("model.safetensors".to_owned(), expected)]);
    }
}
