//! The model that a function asks.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Functions are one where they ask one model: DataFusion compares them.
#[derive(Debug)]
pub(crate) struct Model<M>(Arc<M>);

impl<M> Model<M> {
    pub(crate) fn new(model: M) -> Self {
        Self(Arc::new(model))
    }
}

impl<M> Deref for Model<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M> PartialEq for Model<M> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<M> Eq for Model<M> {}

impl<M> Hash for Model<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}
