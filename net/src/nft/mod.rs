//! nf_tables, spoken directly: rules as values, one transaction per change.
//!
//! `expr` spells single expressions, `rule` puts them together readably, `table`
//! holds what a table should be, `seen` reads what it is, `change` computes and
//! sends the difference.

mod change;
mod expr;
mod frame;
mod rule;
mod seen;
mod table;

pub(crate) use change::reconcile;
pub(crate) use rule::{CT_ESTABLISHED, CT_NEW, CT_RELATED, Direction, Ip, Rule};
pub(crate) use seen::foreign_forward_drops;
pub(crate) use table::{Bytes, Chain, Family, Field, Hook, Set, Table};
