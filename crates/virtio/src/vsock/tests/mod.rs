//! The device against a driver made of nothing but guest memory.

mod driver;
mod handover;
mod hostile;
mod limits;
mod properties;
mod streams;
