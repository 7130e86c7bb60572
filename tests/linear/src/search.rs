//! Looks for an order of the operations in which every answer is right.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::{Model, Operation};

/// Steps that are enough for histories of thousands of operations of a few clients.
pub const STEPS_MAX: usize = 5_000_000;

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violated,
    /// The steps were not enough to tell.
    Undecided,
}

/// Whether the history of one object, beginning in its initial state, is linearizable.
pub fn check<M: Model>(model: &M, history: &[Operation<M::Call>], steps_max: usize) -> Verdict {
    check_from(model, model.initial(), history, steps_max)
}

/// The same for an object that was in this state before.
pub(crate) fn check_from<M: Model>(
    model: &M,
    start: M::State,
    history: &[Operation<M::Call>],
    steps_max: usize,
) -> Verdict {
    Search::new(model, history).run(start, steps_max)
}

struct Search<'a, M: Model> {
    model: &'a M,
    /// Operations that took effect for certain, in the order of invocations.
    certain: Vec<(u64, u64, &'a M::Call)>,
    /// Those that may have, in the order of invocations.
    unknown: Vec<(u64, &'a M::Call)>,
}

/// A place in the search: what has taken effect, and the object after it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place<S> {
    /// All certain ones below this have.
    first: u32,
    /// And these beyond it.
    beyond: Vec<u32>,
    state: S,
}

/// Unknown ones that have taken effect on the way to a place, in order.
type Used = Vec<u32>;

/// The ways on which places were reached.
type Seen<S> = HashMap<Place<S>, Vec<Used>>;

/// Notes a way to a place. False when one is known that used none but some of the same unknown ones:
/// whatever can follow this one can follow that one as well.
fn is_new<S: Clone + Eq + Hash>(seen: &mut Seen<S>, place: &Place<S>, used: &Used) -> bool {
    let ways = seen.entry(place.clone()).or_default();
    let is_part = |way: &Used| way.iter().all(|one| used.binary_search(one).is_ok());
    if ways.iter().any(is_part) {
        return false;
    }
    ways.push(used.clone());
    true
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Call>]) -> Self {
        let mut certain = Vec::new();
        let mut unknown = Vec::new();
        for operation in history {
            match operation.returned {
                Some(returned) => certain.push((operation.invoked, returned, &operation.call)),
                None => unknown.push((operation.invoked, &operation.call)),
            }
        }
        certain.sort_by_key(|(invoked, returned, _)| (*invoked, *returned));
        unknown.sort_by_key(|(invoked, _)| *invoked);
        Self {
            model,
            certain,
            unknown,
        }
    }

    /// Those places are looked at first that use the fewest unknown ones, so that the ways that are
    /// noted are the ones that rule out most others.
    fn run(&self, start: M::State, steps_max: usize) -> Verdict {
        let start = Place {
            first: 0,
            beyond: Vec::new(),
            state: start,
        };
        let mut seen = Seen::new();
        is_new(&mut seen, &start, &Used::new());
        let mut todo = VecDeque::from([(start, Used::new())]);
        let mut steps = 0;
        while let Some((place, used)) = todo.pop_front() {
            if place.first as usize == self.certain.len() {
                return Verdict::Linearizable;
            }
            let (certain, until) = self.candidates(&place);
            steps += 1 + certain.len();
            if steps > steps_max {
                return Verdict::Undecided;
            }
            // The earliest is put last, so that it is tried first.
            for (at, call) in certain.into_iter().rev() {
                if let Some(state) = self.model.step(&place.state, call) {
                    let next = after_certain(&place, at, state);
                    if is_new(&mut seen, &next, &used) {
                        todo.push_front((next, used.clone()));
                    }
                }
            }
            for (at, (invoked, call)) in (0..).zip(&self.unknown) {
                if *invoked > until {
                    break;
                }
                let Err(free) = used.binary_search(&at) else {
                    continue;
                };
                if let Some(state) = self.model.step(&place.state, call) {
                    steps += 1;
                    let next = Place {
                        state,
                        ..place.clone()
                    };
                    let mut more = used.clone();
                    more.insert(free, at);
                    if is_new(&mut seen, &next, &more) {
                        todo.push_back((next, more));
                    }
                }
            }
        }
        Verdict::Violated
    }

    /// The certain ones that may be next, and until when others may be: it must have been invoked
    /// before any other one that is left returned.
    fn candidates(&self, place: &Place<M::State>) -> (Vec<(u32, &'a M::Call)>, u64) {
        let mut until = u64::MAX;
        let mut candidates = Vec::new();
        for (at, (invoked, returned, call)) in
            (place.first..).zip(&self.certain[place.first as usize..])
        {
            if *invoked > until {
                break;
            }
            if !place.beyond.contains(&at) {
                until = until.min(*returned);
                candidates.push((at, *invoked, *call));
            }
        }
        candidates.retain(|(_, invoked, _)| *invoked <= until);
        let candidates = candidates.into_iter().map(|(at, _, call)| (at, call));
        (candidates.collect(), until)
    }
}

fn after_certain<S: Clone>(place: &Place<S>, at: u32, state: S) -> Place<S> {
    let Place {
        mut first,
        mut beyond,
        ..
    } = place.clone();
    beyond.push(at);
    beyond.sort_unstable();
    while beyond.first() == Some(&first) {
        beyond.remove(0);
        first += 1;
    }
    Place {
        first,
        beyond,
        state,
    }
}
