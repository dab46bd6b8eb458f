//! What a reader must know of the machine and the run before any figure.

use super::number;
use crate::model::{Report, Unit};

/// Names and values, in the order in which they are shown.
pub fn of(report: &Report) -> Vec<(&'static str, String)> {
    let environment = &report.environment;
    let hardware = &environment.hardware;
    let (engine, hypervisor) = (&environment.engine, &environment.hypervisor);
    let machine = hardware.kind.clone();
    let dangerous = if report.settings.allow_unsafe {
        "allowed (--unsafe)"
    } else {
        "left out (no --unsafe)"
    };
    vec![
        (
            "Processor",
            format!("{} × {}", hardware.processors, hardware.processor),
        ),
        (
            "Memory",
            number::quantity(hardware.memory as f64, Unit::Bytes),
        ),
        (
            "Machine",
            machine.unwrap_or_else(|| "does not say what it is".to_owned()),
        ),
        ("Kernel", environment.kernel.clone()),
        ("Distribution", environment.distribution.clone()),
        ("Control groups", environment.cgroup_mode.clone()),
        (
            "Engine",
            format!("{} {}: {}", engine.name, engine.version, engine.reason),
        ),
        (
            "Hypervisor",
            format!("{}: {}", hypervisor.name, hypervisor.reason),
        ),
        ("Image", report.settings.image.clone()),
        (
            "Runs",
            format!("{} of each start-up measurement", report.settings.runs),
        ),
        ("Rows that could disturb a host", dangerous.to_owned()),
    ]
}
