//! The commands, one module each or one for a family.

pub mod bench;
pub mod compare;
pub mod copy;
pub mod exec;
pub mod images;
pub mod inspect;
pub mod lifecycle;
pub mod logs;
pub mod port;
pub mod ps;
pub mod run;
pub mod setup;
pub mod snapshot;
pub mod stats;
pub mod template;

use std::future::Future;

use anyhow::Result;

/// Runs the one future of a command.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, future);
    // A read of our standard input cannot be cancelled and must not hold us up.
    runtime.shutdown_background();
    result
}

/// Carries out `act` for each of the names and prints them as they are done;
/// goes on after a failure and reports the last one.
pub fn for_each(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut failed = None;
    for name in names {
        match act(name) {
            Ok(()) => println!("{name}"),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    eprintln!("caisson: {earlier:#}");
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
