//! The same probes in the host, in other runtimes and in Caisson, and a report
//! that a person can read and hand in.

pub mod model;
pub mod raw;
pub mod statistics;
