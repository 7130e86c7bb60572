//! How many replicas a service needs by what its tasks use: as Kubernetes' horizontal autoscaler has it.
//!
//! For each target, replicas times what they use over what they are to use; the most of these counts.
//! A tenth above or below is as well as wanted. More are made at once, twice as many at a time; fewer
//! only once that was enough for a whole window. What is not measured never scales down.

use std::collections::VecDeque;
use std::time::Duration;

use skep_model::Timestamp;
use skep_model::autoscale::Autoscale;

/// So far from its target nothing is changed for.
const TOLERANCE: f64 = 0.1;
/// Steps upwards are so far apart: what the last one made has to start.
pub const UP_EVERY: Duration = Duration::from_secs(15);
/// A step upwards makes so many at least, twice as many as there are otherwise.
const UP_STEP_LEAST: u64 = 4;
/// Recommendations that are remembered at most; those of a longer window are thinned out.
const REMEMBERED_MAX: usize = 1000;

/// What is known of a target: in the order of [`Autoscale::targets`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    /// What the tasks that are ready and measured use together.
    Tasks { sum: f64, measured: u64, ready: u64 },
    /// A value for all replicas.
    Whole(f64),
    /// Nothing.
    Unknown,
}

/// What was recommended lately. Kept by the leader; a new one begins anew and does not scale down for
/// a window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lately {
    recommended: VecDeque<(Timestamp, u64)>,
    /// Since when.
    since: Option<Timestamp>,
    up_at: Option<Timestamp>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub replicas: u64,
    /// Why; empty when nothing changes.
    pub because: String,
}

/// Decides how many replicas there are to be, of `current` ones.
pub fn decide(
    wanted: &Autoscale,
    current: u64,
    measured: &[Measured],
    lately: &mut Lately,
    now: Timestamp,
) -> Decision {
    let stays = Decision {
        replicas: current,
        because: String::new(),
    };
    // Scaled to nothing by hand: that is a way to switch it off.
    if current == 0 {
        *lately = Lately::default();
        return stays;
    }
    let bounded = current.clamp(wanted.min, wanted.max);
    if bounded != current {
        return Decision {
            replicas: bounded,
            because: format!("{current} is not between {} and {}", wanted.min, wanted.max),
        };
    }
    let pairs = wanted.targets.iter().zip(measured);
    let needs: Vec<(u64, &'static str)> = pairs
        .map(|(target, measured)| (needed(target.value(), current, *measured), target.name()))
        .collect();
    let Some((needed, by)) = needs.into_iter().max_by_key(|(needed, _)| *needed) else {
        return stays;
    };
    let needed = needed.clamp(wanted.min, wanted.max);
    lately.remember(needed, wanted.window, now);
    if needed > current {
        if lately.up_at.is_some_and(|at| now.since(at) < UP_EVERY) {
            return stays;
        }
        lately.up_at = Some(now);
        let most = current
            .saturating_mul(2)
            .max(current.saturating_add(UP_STEP_LEAST));
        return Decision {
            replicas: needed.min(most),
            because: format!("{by} asks for {needed}"),
        };
    }
    match lately.enough(wanted.window, now) {
        Some(enough) if enough < current => Decision {
            replicas: enough,
            because: format!("{enough} were enough for {} s", wanted.window.as_secs()),
        },
        _ => stays,
    }
}

/// How many replicas one target asks for.
fn needed(target: f64, current: u64, measured: Measured) -> u64 {
    let replicas = current as f64;
    let by_ratio = |ratio: f64| match (ratio - 1.0).abs() <= TOLERANCE {
        true => current,
        // A ratio may be anything; the conversion saturates.
        false => (replicas * ratio - 1e-9).ceil().max(0.0) as u64,
    };
    match measured {
        Measured::Unknown => current,
        Measured::Whole(value) if !value.is_finite() || value < 0.0 => current,
        Measured::Whole(value) => by_ratio(value / replicas / target),
        Measured::Tasks {
            sum,
            measured,
            ready,
        } => {
            // Those that start, and those that say nothing, use nothing when it is about more …
            let up = by_ratio(sum / replicas / target);
            // … and all that they may when it is about fewer.
            let silent = current.saturating_sub(measured) as f64;
            let down = by_ratio((sum + silent * target) / replicas / target);
            match up > current {
                true => up,
                false if measured == 0 || measured < ready => current,
                false => down.min(current),
            }
        }
    }
}

impl Lately {
    fn remember(&mut self, needed: u64, window: Duration, now: Timestamp) {
        // A clock that was put back.
        if self.recommended.back().is_some_and(|(at, _)| *at > now) {
            self.recommended.clear();
            (self.since, self.up_at) = (None, None);
        }
        self.since.get_or_insert(now);
        // Only what is not outdone by something later counts for the most of a window.
        while self
            .recommended
            .back()
            .is_some_and(|(_, known)| *known <= needed)
        {
            self.recommended.pop_back();
        }
        self.recommended.push_back((now, needed));
        while self
            .recommended
            .front()
            .is_some_and(|(at, _)| now.since(*at) > window)
            || self.recommended.len() > REMEMBERED_MAX
        {
            self.recommended.pop_front();
        }
    }

    /// The most that was asked for in the last window; nothing before one has passed.
    fn enough(&self, window: Duration, now: Timestamp) -> Option<u64> {
        let since = self.since?;
        let whole = now.since(since) >= window;
        let most = self.recommended.front().map(|(_, needed)| *needed);
        most.filter(|_| whole)
    }
}
