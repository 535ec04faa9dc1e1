//! A backend whose operations are timed: a decorator around its own, so that what is measured is what runs.
//!
//! Each operation is computed before the next is built, so that its time is its own.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::checkpoint::spec::{HalfNorms, LayerSpec, ModelSpec};
use crate::mlx::{Building, MlxError};
use crate::model::{
    AttentionLayer, Backend, InputLayer, LayerInputs, LayerKvCache, MlpLayer, Operations, Then,
};

use super::measurable::Measurable;
use super::parts::{Arithmetic, Level, Part, Record};

/// The operations of `backend`, timed.
pub(crate) struct Watched<'a, B: Backend> {
    backend: &'a B,
    spec: &'a ModelSpec,
    level: Level,
    /// The layer that runs, and whether its attention is done.
    layer: Cell<usize>,
    half: Cell<Half>,
    /// When the layer began.
    began: Cell<Option<Building>>,
    /// Selecting rows, which belongs to the sum that follows.
    before: Cell<[Duration; 2]>,
    records: RefCell<Vec<Record>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Half {
    Attention,
    Mlp,
    Input,
}

impl<'a, B: Measurable> Watched<'a, B> {
    /// For a pass that begins with layer `first`.
    pub(crate) fn new(backend: &'a B, spec: &'a ModelSpec, level: Level, first: usize) -> Self {
        Self {
            backend,
            spec,
            level,
            layer: Cell::new(first),
            half: Cell::new(Half::Attention),
            began: Cell::default(),
            before: Cell::default(),
            records: RefCell::default(),
        }
    }

    /// What was recorded.
    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records.into_inner()
    }

    fn layer_spec(&self) -> &'a LayerSpec {
        &self.spec.layers[self.layer.get()]
    }

    fn record(
        &self,
        parts: &'static [Part],
        arithmetic: Arithmetic,
        layer: Option<usize>,
        [host, device]: [Duration; 2],
    ) {
        self.records.borrow_mut().push(Record { parts, arithmetic, layer, host, device });
    }

    /// Builds and computes an operation; its time.
    fn timed<T>(
        &self,
        build: impl FnOnce() -> Result<T, MlxError>,
        wait: impl FnOnce(&T) -> Result<(), MlxError>,
    ) -> Result<(T, [Duration; 2]), MlxError> {
        let building = Building::start();
        let made = build()?;
        let times = times::<B>(&building, || wait(&made))?;
        Ok((made, times))
    }

    /// One operation of a layer.
    fn operation<T>(
        &self,
        parts: &'static [Part],
        arithmetic: Arithmetic,
        build: impl FnOnce() -> Result<T, MlxError>,
        wait: impl FnOnce(&T) -> Result<(), MlxError>,
    ) -> Result<T, MlxError> {
        if self.level != Level::Operations {
            return build();
        }
        let (made, mut times) = self.timed(build, wait)?;
        for (time, before) in times.iter_mut().zip(self.before.take()) {
            *time += before;
        }
        if !parts.is_empty() {
            self.record(parts, arithmetic, Some(self.layer.get()), times);
        }
        Ok(made)
    }

    /// One operation outside the layers.
    fn end<T>(
        &self,
        parts: &'static [Part],
        build: impl FnOnce() -> Result<T, MlxError>,
        wait: impl FnOnce(&T) -> Result<(), MlxError>,
    ) -> Result<T, MlxError> {
        let (made, times) = self.timed(build, wait)?;
        if self.level == Level::Operations {
            self.record(parts, self.backend.arithmetic(None), None, times);
        }
        Ok(made)
    }
}

/// How long what was built took the host, and then the device.
fn times<B: Measurable>(
    building: &Building,
    wait: impl FnOnce() -> Result<(), MlxError>,
) -> Result<[Duration; 2], MlxError> {
    let host = if B::DEFERS { building.host() } else { Duration::ZERO };
    wait()?;
    Ok([host, building.elapsed().saturating_sub(host)])
}

impl<B: Measurable> Operations<B> for Watched<'_, B> {
    fn embed(
        &self,
        embedding: &B::Embedding,
        next: Option<&B::Norm>,
        pass: &B::Pass,
    ) -> Result<B::Hidden, MlxError> {
        let b = self.backend;
        self.end(&[Part::Gather], || b.embed(embedding, next, pass), |x| b.wait_hidden(x))
    }

    fn layer_inputs(
        &self,
        x: &B::Hidden,
        inputs: &LayerInputs<B>,
        pass: &B::Pass,
    ) -> Result<B::Wide, MlxError> {
        let b = self.backend;
        let (made, times) = self.timed(|| b.layer_inputs(x, inputs, pass), |made| b.wait_wide(made))?;
        if self.level == Level::Operations {
            self.record(&[Part::LayerInputs], b.arithmetic(Some(inputs.projection())), None, times);
        }
        Ok(made)
    }

    fn gate(
        &self,
        x: &B::Hidden,
        inputs: &B::Wide,
        layer: &InputLayer<B>,
        pass: &B::Pass,
    ) -> Result<B::Wide, MlxError> {
        let b = self.backend;
        let (arithmetic, build) = (b.arithmetic(Some(layer.gate())), || b.gate(x, inputs, layer, pass));
        self.operation(&[Part::LayerInput], arithmetic, build, |gated| b.wait_wide(gated))
    }

    fn qkv(&self, x: &B::Hidden, layer: &AttentionLayer<B>, pass: &B::Pass) -> Result<B::Wide, MlxError> {
        if self.level == Level::Layers {
            self.began.set(Some(Building::start()));
        }
        let b = self.backend;
        let attention = &self.layer_spec().attention;
        let parts = match (attention.norms.input.is_some(), B::ROTATES_WITH_QKV, attention.q_norm.is_some()) {
            (true, false, _) => &[Part::InputNorm, Part::Qkv][..],
            (false, false, _) => &[Part::Qkv],
            (_, true, true) => &[Part::InputNorm, Part::Qkv, Part::HeadNorms, Part::Rope],
            (_, true, false) => &[Part::InputNorm, Part::Qkv, Part::Rope],
        };
        let arithmetic = b.arithmetic(Some(layer.qkv()));
        self.operation(parts, arithmetic, || b.qkv(x, layer, pass), |qkv| b.wait_wide(qkv))
    }

    fn heads(
        &self,
        qkv: B::Wide,
        layer: &AttentionLayer<B>,
        cache: LayerKvCache<'_, B::KeysValues>,
        pass: &B::Pass,
    ) -> Result<B::Heads, MlxError> {
        let b = self.backend;
        let attention = &self.layer_spec().attention;
        let parts = match (B::ROTATES_WITH_QKV, attention.q_norm.is_some(), attention.rope.is_some()) {
            (true, ..) | (false, false, false) => &[][..],
            (false, true, true) => &[Part::HeadNorms, Part::Rope],
            (false, true, false) => &[Part::HeadNorms],
            (false, false, true) => &[Part::Rope],
        };
        let build = || b.heads(qkv, layer, cache, pass);
        self.operation(parts, b.arithmetic(None), build, |heads| b.wait_heads(heads))
    }

    fn attend(
        &self,
        heads: B::Heads,
        layer: &AttentionLayer<B>,
        pass: &B::Pass,
    ) -> Result<B::Wide, MlxError> {
        let b = self.backend;
        let build = || b.attend(heads, layer, pass);
        self.operation(&[Part::Attention], b.arithmetic(None), build, |mixed| b.wait_wide(mixed))
    }

    fn up(&self, x: &B::Hidden, layer: &MlpLayer<B>, pass: &B::Pass) -> Result<B::Wide, MlxError> {
        let b = self.backend;
        let parts = match self.layer_spec().mlp.norms.input {
            Some(_) => &[Part::PostAttentionNorm, Part::GateUp, Part::SwiGlu][..],
            None => &[Part::GateUp, Part::SwiGlu],
        };
        let arithmetic = b.arithmetic(Some(layer.up()));
        self.operation(parts, arithmetic, || b.up(x, layer, pass), |inner| b.wait_wide(inner))
    }

    fn add(
        &self,
        x: B::Hidden,
        y: &B::Wide,
        weight: &B::Projection,
        norms: &HalfNorms<B::Norm>,
        then: Then<'_, B::Norm>,
        pass: &B::Pass,
    ) -> Result<B::Hidden, MlxError> {
        let b = self.backend;
        let half = self.half.get();
        let parts = match half {
            Half::Attention => &[Part::Output],
            Half::Mlp => &[Part::Down],
            Half::Input => &[Part::LayerInput],
        };
        let build = || b.add(x, y, weight, norms, then, pass);
        let sum = self.operation(parts, b.arithmetic(Some(weight)), build, |x| b.wait_hidden(x))?;
        match half {
            Half::Attention => self.half.set(Half::Mlp),
            Half::Mlp if self.layer_spec().input.is_some() => self.half.set(Half::Input),
            Half::Mlp | Half::Input => {
                if let Some(building) = self.began.take() {
                    let times = times::<B>(&building, || b.wait_hidden(&sum))?;
                    self.record(&[Part::Layer], b.arithmetic(None), Some(self.layer.get()), times);
                }
                self.half.set(Half::Attention);
                self.layer.set(self.layer.get() + 1);
            }
        }
        Ok(sum)
    }

    fn rows(
        &self,
        x: &B::Hidden,
        y: &B::Wide,
        rows: &[u32],
        pass: &B::Pass,
    ) -> Result<(B::Hidden, B::Wide), MlxError> {
        let b = self.backend;
        if self.level != Level::Operations {
            return b.rows(x, y, rows, pass);
        }
        let wait = |(x, y): &(B::Hidden, B::Wide)| b.wait_hidden(x).and_then(|()| b.wait_wide(y));
        let (selected, times) = self.timed(|| b.rows(x, y, rows, pass), wait)?;
        self.before.set(times);
        Ok(selected)
    }

    fn finish(&self, x: &B::Hidden, norm: Option<&B::Norm>) -> Result<Vec<f32>, MlxError> {
        // What is read is computed.
        self.end(&[Part::FinalNorm], || self.backend.finish(x, norm), |_| Ok(()))
    }
}
