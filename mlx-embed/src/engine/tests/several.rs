//! One queue before several threads, each with a model of its own.

use super::*;

fn start(threads: usize) -> (Vec<Arc<Lab>>, Engine) {
    let labs: Vec<Arc<Lab>> = (0..threads).map(|_| Arc::default()).collect();
    let load = |lab: &Arc<Lab>| {
        let model = Fake(Arc::clone(lab));
        move || Ok(model)
    };
    let engine = Engine::start(labs.iter().map(load).collect(), &options()).unwrap().wait().unwrap();
    (labs, engine)
}

/// As many tokens as a batch has, all of this id.
fn full(id: u32) -> Vec<u32> {
    vec![id; 64]
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < HANGS, "{what}");
        thread::yield_now();
    }
}

#[test]
fn batches_of_one_call_run_side_by_side() {
    let (labs, engine) = start(3);
    labs.iter().for_each(|lab| lab.hold());
    let caller = QUERY.send(&engine, &[&full(1), &full(2), &full(3)]);
    // None of them ends before all have begun.
    labs.iter().for_each(|lab| lab.wait_for_batches(1));
    labs.iter().for_each(|lab| lab.release());
    let found: Vec<f32> = vectors(&caller).iter().map(|vector| vector[0]).collect();
    assert_eq!(found, [1.0, 2.0, 3.0]);
    assert_eq!(engine.state(), State::Running);
}

#[test]
fn a_thread_that_is_lost_leaves_the_others_working() {
    for id in [BREAKS_DEVICE, PANICS] {
        let (labs, engine) = start(2);
        end(&QUERY.send(&engine, &[&[id]])).unwrap_err();
        wait_for("the loss is told", || engine.state() != State::Running);
        let State::Degraded { lost } = engine.state() else { panic!("{:?}", engine.state()) };
        assert!(lost.len() == 1 && engine.state().takes_requests(), "{lost:?}");
        for text in 1..6 {
            assert_eq!(vectors(&QUERY.send(&engine, &[&[text]])), [[text as f32]]);
        }
        assert!(engine.ask(|_| Ok(())).is_ok());
        end(&QUERY.send(&engine, &[&[id]])).unwrap_err();
        assert!(is_stopped(&QUERY.send(&engine, &[&[2]])));
        let State::Dead { reason } = engine.state() else { panic!("{:?}", engine.state()) };
        assert_eq!(reason, lost[0], "the first reason is the cause of later ones");
        drop(engine);
        assert!(labs.iter().all(|lab| lab.unloaded.load(Ordering::SeqCst) == 1));
    }
}

#[test]
fn shutting_down_waits_for_all() {
    for (ending, runs) in [(Ending::Finish, true), (Ending::Return, false)] {
        let (labs, engine) = start(2);
        labs.iter().for_each(|lab| lab.hold());
        let running = QUERY.send(&engine, &[&full(1), &full(2)]);
        labs.iter().for_each(|lab| lab.wait_for_batches(1));
        let queued = BULK.send(&engine, &[&full(3), &full(4), &full(5)]);
        engine.fate.tell(&engine.queue.close(ending));
        labs.iter().for_each(|lab| lab.release());
        engine.shut_down(ending);
        assert!(labs.iter().all(|lab| lab.unloaded.load(Ordering::SeqCst) == 1));
        assert!(end(&running).is_ok());
        assert_eq!(end(&queued).is_ok(), runs);
    }
}

#[test]
fn one_model_that_fails_to_load_is_enough() {
    let lab = Arc::<Lab>::default();
    let load = |fails: bool| {
        let lab = Arc::clone(&lab);
        move || match fails {
            true => Err(Error::Option { option: "test", reason: "can't load".into() }),
            false => Ok(Fake(lab)),
        }
    };
    let started = Engine::start(vec![load(false), load(true)], &options()).unwrap();
    assert!(matches!(started.wait(), Err(Error::Option { .. })));
    assert_eq!(lab.unloaded.load(Ordering::SeqCst), 1);
}
