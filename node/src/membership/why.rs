//! Why things are as they are, as far as this node can tell: without a quorum by what this manager
//! has, without its keys by that alone.

use skep_manager::clock;
use skep_model::why::{Cause, Trouble, Why};
use skep_model::{ControlError, Kind};
use skep_reconcile::why::{Sort, why};

use super::{Membership, State};

impl Membership {
    /// # Errors
    /// This node is no manager, or the object is not known.
    pub(super) async fn reasons(
        &self,
        object: Option<&str>,
        sort: &str,
    ) -> Result<Why, ControlError> {
        let sort = match sort {
            "" => None,
            word => Some(Sort::parse(word)?),
        };
        if let Some(why) = self.out_of_order() {
            return Ok(why);
        }
        let manager = self.active()?.manager()?;
        let (snapshot, lost) = match manager.snapshot(false).await {
            Ok(snapshot) => (snapshot, None),
            Err(error) if error.kind == Kind::Unavailable => {
                (manager.snapshot(true).await?, Some(error))
            }
            Err(error) => return Err(error),
        };
        let mut answer = why(&snapshot, object, sort, clock::now())?;
        if let Some(error) = lost {
            let cause = Cause {
                subject: "cluster".to_owned(),
                trouble: Trouble::Quorum,
                message: error.message,
                advice: "bring managers back; if too few ever will, `swarm init \
                         --force-new-cluster` on one of those that are left. Tasks go on meanwhile; \
                         what follows is as of before"
                    .to_owned(),
                ..Cause::default()
            };
            answer.causes.insert(0, cause);
        }
        Ok(answer)
    }

    /// What keeps this node from answering for a cluster that it is a member of.
    fn out_of_order(&self) -> Option<Why> {
        let (summary, trouble, message, advice) = match &*self.inner.state.borrow() {
            State::Locked => (
                "locked",
                Trouble::Locked,
                "this manager's keys are sealed since its daemon started".to_owned(),
                "`swarm unlock`, with the key that `swarm unlock-key` shows on another manager",
            ),
            State::Failed(error) => {
                let expired = error.contains("expired");
                let (trouble, advice) = match expired {
                    true => (
                        Trouble::Certificate,
                        "look at this node's clock; join it anew if the certificate has really run out",
                    ),
                    false => (Trouble::Other, "the daemon's log says more"),
                };
                ("not taking part", trouble, error.clone(), advice)
            }
            State::Inactive | State::Pending | State::Active(_) => return None,
        };
        Some(Why {
            object: "this node".to_owned(),
            summary: summary.to_owned(),
            causes: vec![Cause {
                subject: self.inner.around.hostname.clone(),
                trouble,
                message,
                advice: advice.to_owned(),
                ..Cause::default()
            }],
            ..Why::default()
        })
    }
}
