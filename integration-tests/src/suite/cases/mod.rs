//! The rows' code, by what they are about.

pub(super) mod attempts;
pub(super) mod cancel;
pub(super) mod codec;
pub(super) mod dead;
pub(super) mod delay;
pub(super) mod faults;
pub(super) mod flow;
pub(super) mod groups;
pub(super) mod hold;
pub(super) mod inspect;
pub(super) mod lease;
pub(super) mod lifecycle;
pub(super) mod observe;
pub(super) mod once;
pub(super) mod operator;
pub(super) mod order;
pub(super) mod publish;
pub(super) mod service;
pub(super) mod settle;
pub(super) mod terms;
pub(super) mod transactions;
pub(super) mod worker;
