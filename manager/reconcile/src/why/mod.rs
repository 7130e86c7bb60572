//! Why things are as they are: what waits for what, what went wrong last, and what can be done.
//! Read off the replicated state; pure.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

use skep_model::stack::STACK_LABEL;
use skep_model::why::{Cause, Transition, Why};
use skep_model::{ControlError, Kind, Node, NodeId, Service, Stack, Task, TaskId, Timestamp};
use skep_plan::NodeTable;
use skep_plan::service::restart::ended_by_itself;
use skep_store::{FindError, Snapshot};

mod node;
mod schedule;
mod secret;
mod service;
mod slot;
pub mod words;

/// Causes told at most; the number of the others is said.
const CAUSES_MAX: usize = 200;
const TRANSITIONS_MAX: usize = 20;
/// What nodes have against tasks is told so often at most, over all causes, but of one in any case:
/// thousands of tasks that fit on none of thousands of nodes have the same to tell.
const REFUSALS_MAX: usize = 20_000;

/// What may be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Service,
    Task,
    Node,
    Stack,
}

impl Sort {
    /// # Errors
    /// The word is none of them.
    pub fn parse(word: &str) -> Result<Self, ControlError> {
        Ok(match word {
            "service" => Self::Service,
            "task" => Self::Task,
            "node" => Self::Node,
            "stack" => Self::Stack,
            other => {
                return Err(ControlError::invalid(format!(
                    "\"{other}\" is not a valid type: it is one of service, task, node, stack"
                )));
            }
        })
    }
}

/// Explains the object that `given` names, or the whole cluster. Without a sort services come
/// before tasks, nodes and stacks of the same name.
///
/// # Errors
/// Nothing, or more than one thing, has that name or that start of an id.
pub fn why(
    snapshot: &Snapshot,
    given: Option<&str>,
    sort: Option<Sort>,
    now: Timestamp,
) -> Result<Why, ControlError> {
    let view = View {
        snapshot,
        now,
        nodes: OnceCell::new(),
        waiting: RefCell::default(),
    };
    let mut why = match given {
        None => view.whole_cluster(),
        Some(given) => view.named(given, sort)?,
    };
    why.causes
        .sort_by_key(|cause| (cause.trouble.is_passing(), cause.subject.clone()));
    let more = why.causes.len().saturating_sub(CAUSES_MAX);
    if more > 0 {
        why.causes.truncate(CAUSES_MAX);
        why.causes.push(Cause {
            subject: "others".to_owned(),
            message: format!("{more} more are not shown"),
            ..Cause::default()
        });
    }
    view.tell_refusals(&mut why.causes);
    why.transitions
        .sort_by(|a, b| (b.at, &b.subject).cmp(&(a.at, &a.subject)));
    why.transitions.truncate(TRANSITIONS_MAX);
    Ok(why)
}

/// The state as it is asked.
struct View<'a> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    nodes: OnceCell<NodeTable>,
    /// Tasks that no node takes, by name.
    waiting: RefCell<BTreeMap<String, TaskId>>,
}

impl View<'_> {
    fn named(&self, given: &str, sort: Option<Sort>) -> Result<Why, ControlError> {
        let mut ambiguous = None;
        for one in [Sort::Service, Sort::Task, Sort::Node, Sort::Stack] {
            if sort.is_some_and(|sort| sort != one) {
                continue;
            }
            let found = match one {
                Sort::Service => self
                    .snapshot
                    .find::<Service>(given)
                    .map(|service| self.of_service(service)),
                Sort::Task => self.find_task(given).map(|task| self.of_task(task)),
                Sort::Node => self
                    .snapshot
                    .find_node(given)
                    .map(|node| self.of_node(node)),
                Sort::Stack => match self.of_stack(given) {
                    Some(why) => Ok(why),
                    None => continue,
                },
            };
            match found {
                Ok(why) => return Ok(why),
                Err(FindError::NotFound { .. }) => (),
                Err(error @ FindError::Ambiguous { .. }) => ambiguous = Some(error),
            }
        }
        Err(match ambiguous {
            Some(error) => ControlError::new(Kind::Invalid, error.to_string()),
            None => ControlError::not_found(match sort {
                None => format!("no service, task, node or stack is called {given}"),
                Some(sort) => format!("no such {}: {given}", format!("{sort:?}").to_lowercase()),
            }),
        })
    }

    /// By id, the start of one, `web.1` (the newest task of the slot) or a container's name.
    fn find_task(&self, given: &str) -> Result<&Task, FindError> {
        let by_name =
            |task: &&std::sync::Arc<Task>| task.name() == given || task.container_name() == given;
        if given.contains('.') {
            let named = self.snapshot.tasks().filter(by_name);
            if let Some(task) = named.max_by_key(|task| (task.is_live(), task.created_at)) {
                return Ok(task);
            }
        }
        self.snapshot.find::<Task>(given).map(|task| &**task)
    }

    /// Adds what each node has against the tasks that have none, to the causes that are told.
    fn tell_refusals(&self, causes: &mut [Cause]) {
        let waiting = self.waiting.take();
        let mut told = 0;
        for cause in causes {
            let task = waiting.get(&cause.subject);
            let task = task.and_then(|id| self.snapshot.task(id));
            if let Some(task) = task.filter(|task| task.status.err == cause.message)
                && told < REFUSALS_MAX
            {
                cause.refusals = self.refusals(task);
            }
            if told > 0 && told + cause.refusals.len() > REFUSALS_MAX {
                cause.refusals = Vec::new();
            }
            told += cause.refusals.len();
        }
    }

    fn of_stack(&self, name: &str) -> Option<Why> {
        let in_stack = |service: &&std::sync::Arc<Service>| {
            let label = service.spec.labels.get(STACK_LABEL);
            label.is_some_and(|stack| stack == name)
        };
        let services: Vec<_> = self.snapshot.services().filter(in_stack).collect();
        if services.is_empty() {
            return None;
        }
        let mut why = Why {
            object: format!("stack {name}"),
            ..Why::default()
        };
        let mut well = 0;
        for service in &services {
            let of_one = self.of_service(service);
            well += usize::from(of_one.causes.is_empty());
            why.causes.extend(of_one.causes);
            why.transitions.extend(of_one.transitions);
        }
        why.summary = format!("{well} of {} services are as wanted", services.len());
        let stack = self.snapshot.by_name::<Stack>(name);
        if let Some(rollout) = stack.and_then(|stack| stack.rollout.as_ref()) {
            why.summary.push_str("; last deploy: ");
            why.summary.push_str(rollout.state.as_str());
            if !rollout.message.is_empty() {
                why.summary.push_str(&format!(" ({})", rollout.message));
            }
        }
        Some(why)
    }

    fn whole_cluster(&self) -> Why {
        let mut why = Why {
            object: "cluster".to_owned(),
            ..Why::default()
        };
        for node in self.snapshot.nodes() {
            why.causes.extend(self.node_causes(node));
        }
        let (mut well, mut all) = (0, 0);
        for service in self.snapshot.services() {
            let causes = self.service_causes(service);
            (well, all) = (well + usize::from(causes.is_empty()), all + 1);
            why.causes.extend(causes);
        }
        let secrets = self.snapshot.secrets();
        let expiring = secrets.filter_map(|secret| secret::cause(secret, self.now));
        why.causes.extend(expiring);
        let ready = self.snapshot.nodes().filter(|node| node.takes_tasks());
        why.summary = format!(
            "{} of {} nodes take tasks, {well} of {all} services are as wanted",
            ready.count(),
            self.snapshot.nodes().count()
        );
        why
    }

    fn of_task(&self, task: &Task) -> Why {
        let slot = self.slot_of(task);
        let service = self.snapshot.service(&task.service_id).map(AsRef::as_ref);
        let mut causes: Vec<Cause> = self.task_cause(service, task, &slot).into_iter().collect();
        if let Some(service) = service.filter(|_| task.is_live()) {
            causes.extend(self.spec_causes(service));
        }
        Why {
            object: format!("task {} ({})", task.name(), task.id),
            summary: self.in_words(task),
            causes,
            transitions: self.transitions(slot.iter().copied()),
        }
    }

    /// All tasks of a task's slot.
    fn slot_of<'b>(&'b self, task: &'b Task) -> Vec<&'b Task> {
        self.snapshot
            .tasks_of_service(&task.service_id)
            .filter(|other| (other.slot, place(other)) == (task.slot, place(task)))
            .map(|task| &**task)
            .collect()
    }

    /// What happened to `tasks`.
    fn transitions<'b>(&self, tasks: impl Iterator<Item = &'b Task>) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for task in tasks {
            let node = self.node_name(&task.node_id);
            let mut tell = |at: Timestamp, node: &str, what: String| {
                if !at.is_zero() {
                    transitions.push(Transition {
                        at,
                        subject: task.name(),
                        node: node.to_owned(),
                        what,
                    });
                }
            };
            tell(task.created_at, "", "made".to_owned());
            tell(task.running_since, &node, "runs".to_owned());
            // To stop what has ended by itself is a formality.
            if !ended_by_itself(task) {
                tell(task.draining_since, &node, "is told to stop".to_owned());
            }
            let state = task.status.state;
            let told = matches!(state, skep_model::TaskState::New)
                || state == skep_model::TaskState::Running && !task.running_since.is_zero();
            if !told {
                tell(task.status.applied_at, &node, words::state(&task.status));
            }
        }
        transitions
    }

    /// The host name of a node, its id when it is gone, nothing for none.
    fn node_name(&self, id: &NodeId) -> String {
        match self.snapshot.node(id) {
            Some(node) => name_of(node),
            None => id.to_string(),
        }
    }

    /// Every node with what runs there.
    fn nodes(&self) -> &NodeTable {
        self.nodes
            .get_or_init(|| crate::preview::table(self.snapshot))
    }
}

fn name_of(node: &Node) -> String {
    match node.description.hostname.as_str() {
        "" => node.id.to_string(),
        name => name.to_owned(),
    }
}

/// What, besides its number, tells slots of global services apart.
fn place(task: &Task) -> NodeId {
    match task.slot {
        0 => task.node_id.clone(),
        _ => NodeId::default(),
    }
}
