//! nf_tables, spoken directly: rules as values, one transaction per change.
//!
//! `expr` spells single expressions, `rule` puts them together readably, `table`
//! holds what a table should be, `seen` reads what it is, `change` computes and
//! sends the difference. `foreign` is about chains of others.

mod change;
mod expr;
mod foreign;
mod frame;
mod rule;
mod seen;
mod table;

pub(crate) use change::{CHANGED_TABLE, reconcile};
pub(crate) use foreign::{Opened, closed, let_through, take_back};
pub(crate) use rule::{CT_ESTABLISHED, CT_NEW, CT_RELATED, Direction, Ip, Rule, Turn};
pub(crate) use table::{Bytes, Chain, Family, Field, Hook, Set, Table};
