//! The smallest part of a history that is not linearizable by itself: what a person looks at.

use crate::search::check_from;
use crate::{Model, Operation, Verdict};

/// Leaves out of a violating history whatever the violation does not need: what came after it, what
/// came before it, what only looked, and the certainty of changes that may as well not have been
/// made. The flag tells whether the object's state before the history matters.
///
/// `None` when the history is linearizable, or the steps were not enough to tell.
pub fn smallest<M: Model>(
    model: &M,
    history: &[Operation<M::Call>],
    steps_max: usize,
) -> Option<(Vec<Operation<M::Call>>, bool)> {
    let is_violated = |start: &M::State, history: &[Operation<M::Call>]| {
        check_from(model, start.clone(), history, steps_max) == Verdict::Violated
    };
    let initial = model.initial();
    if !is_violated(&initial, history) {
        return None;
    }
    let mut ends: Vec<u64> = history.iter().filter_map(|one| one.returned).collect();
    ends.sort_unstable();
    let end = ends.partition_point(|end| !is_violated(&initial, &until(model, history, *end)));
    let history = until(model, history, *ends.get(end)?);

    let mut begins: Vec<u64> = history.iter().map(|one| one.invoked).collect();
    begins.sort_unstable();
    let any = model.any();
    let late = begins.partition_point(|begin| is_violated(&any, &since(model, &history, *begin)));
    let (start, mut history) = match late.checked_sub(1) {
        Some(late) => (any, since(model, &history, begins[late])),
        None => (initial.clone(), history),
    };

    let mut at = 0;
    while at < history.len() {
        let mut less = history.clone();
        if model.only_looks(&less[at].call) {
            less.remove(at);
            if is_violated(&start, &less) {
                history = less;
                continue;
            }
        } else if less[at].returned.take().is_some() && is_violated(&start, &less) {
            history = less;
        }
        at += 1;
    }
    Some((history, start == initial))
}

/// What was known at this moment.
fn until<M: Model>(model: &M, history: &[Operation<M::Call>], end: u64) -> Vec<Operation<M::Call>> {
    let begun = history.iter().filter(|one| one.invoked <= end);
    let cut = begun.cloned().map(|mut one| {
        one.returned = one.returned.filter(|returned| *returned <= end);
        one
    });
    cut.filter(|one| one.returned.is_some() || !model.only_looks(&one.call))
        .collect()
}

/// What was asked from this moment on, and what may have been done before it or after.
fn since<M: Model>(
    model: &M,
    history: &[Operation<M::Call>],
    begin: u64,
) -> Vec<Operation<M::Call>> {
    let later = history
        .iter()
        .filter(|one| one.returned.is_none_or(|returned| returned >= begin));
    let cut = later.cloned().map(|mut one| {
        one.returned = one.returned.filter(|_| one.invoked >= begin);
        one
    });
    cut.filter(|one| one.returned.is_some() || !model.only_looks(&one.call))
        .collect()
}
