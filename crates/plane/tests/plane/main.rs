//! The replicated state: equal logs give equal states, and what a node may decide about keys.

mod identities;
mod logs;
mod support;
