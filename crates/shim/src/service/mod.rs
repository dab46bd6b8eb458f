//! The ttrpc services through which containerd speaks to the shim.

mod sandbox;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim_protos::{sandbox_async, shim_async};
use ttrpc::r#async::Service;

use crate::pod::Pod;

/// Names of the Task service: version 2 of containerd 1.x and version 3 of 2.x, which
/// differ in nothing else.
const TASK: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// Everything that is served.
pub fn all(pod: &Arc<Pod>) -> Vec<HashMap<String, Service>> {
    let mut services: Vec<_> = TASK
        .iter()
        .map(|name| {
            let methods = shim_async::create_task(Arc::new(task::TaskService(pod.clone())));
            methods
                .into_values()
                .map(|service| ((*name).to_owned(), service))
                .collect()
        })
        .collect();
    services.push(sandbox_async::create_sandbox(Arc::new(
        sandbox::SandboxService::new(pod.clone()),
    )));
    services
}
