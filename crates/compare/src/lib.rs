//! The same probes in the host, in other runtimes and in Caisson, and a report
//! that a person can read and hand in.

mod error;
pub mod model;
pub mod raw;
pub mod runtime;
pub mod statistics;

pub use error::{Error, Result};
