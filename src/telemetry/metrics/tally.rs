//! A counter for each value of a label.

use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Labels whose values are known when the code is written. So there are only as many as the code has.
pub(super) type Labels<const N: usize> = [(&'static str, &'static str); N];

/// An enum whose variants are the values of a label.
pub trait LabelValue: Copy + 'static {
    /// The name of the label.
    const LABEL: &'static str;
    /// Every variant, in order.
    const ALL: &'static [Self];
    /// The value of the label.
    fn value(self) -> &'static str;
    /// The position in [`Self::ALL`].
    fn index(self) -> usize;
}

/// Declares an enum and its [`LabelValue`].
macro_rules! label {
    ($(#[$doc:meta])* $label:literal $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $crate::telemetry::metrics::LabelValue for $name {
            const LABEL: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(super) use label;

/// A counter for each variant of a label. Cheap to clone. Every series exists from the start, at 0: Prometheus would
/// not see the first increment of a series that appears with it.
#[derive(Debug, Clone)]
pub struct Tally<L> {
    family: Family<Labels<1>, Counter>,
    counters: Arc<[Counter]>,
    label: PhantomData<fn(L)>,
}

impl<L: LabelValue> Default for Tally<L> {
    fn default() -> Self {
        let family = Family::default();
        let counter = |label: &L| family.get_or_create_owned(&[(L::LABEL, label.value())]);
        let counters = L::ALL.iter().map(counter).collect();
        Self { family, counters, label: PhantomData }
    }
}

impl<L: LabelValue> Tally<L> {
    /// Adds one.
    pub fn count(&self, label: L) {
        self.counters[label.index()].inc();
    }

    /// Adds this many.
    pub(super) fn add(&self, label: L, number: usize) {
        self.counters[label.index()].inc_by(number as u64);
    }

    #[cfg(test)]
    pub(super) fn get(&self, label: L) -> u64 {
        self.counters[label.index()].get()
    }

    pub(super) fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.family.clone());
    }
}
