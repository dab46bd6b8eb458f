//! Processes of a container: its first one and those of `exec`.

use std::path::Path;

use oci_spec::runtime::{LinuxCapabilities, Process, User};

use super::security::Security;
use super::{Error, ImageFacts, Result, capability, environment, limit, volume};
use crate::container::ContainerRecord;
use crate::flags::{CreateFlags, ExecFlags};

/// Entrypoint and arguments, by Docker's rules: an entrypoint of the user's takes
/// the image's arguments away, and an empty one the image's entrypoint.
pub(super) fn program(
    flags: &CreateFlags,
    facts: &ImageFacts,
) -> Result<(Vec<String>, Vec<String>)> {
    let given = &flags.program.args;
    let (entrypoint, command) = match flags.entrypoint.as_deref() {
        Some("") => (Vec::new(), given.clone()),
        Some(program) => (vec![program.to_owned()], given.clone()),
        None if given.is_empty() => (facts.config.entrypoint.clone(), facts.config.cmd.clone()),
        None => (facts.config.entrypoint.clone(), given.clone()),
    };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(Error::NoCommand(facts.name.clone()));
    }
    Ok((entrypoint, command))
}

/// The first process of a container.
pub(super) fn first(
    flags: &CreateFlags,
    facts: &ImageFacts,
    hostname: &str,
    security: &Security,
    args: Vec<String>,
) -> Result<Process> {
    let requested = environment::requested(&flags.env_file, &flags.env, &environment::ours)?;
    let granted = capability::granted(&flags.cap_add, &flags.cap_drop, flags.privileged);
    let directory = flags
        .workdir
        .clone()
        .unwrap_or_else(|| facts.config.working_dir.clone());
    let mut process = Process::default();
    process.set_terminal(Some(flags.tty));
    process.set_user(user(flags.user.as_deref().unwrap_or(&facts.config.user)));
    process.set_args(Some(args));
    process.set_env(Some(environment::merge(
        &facts.config.env,
        &requested,
        hostname,
        flags.tty,
    )));
    process.set_cwd(volume::clean(Path::new(&directory)));
    process.set_capabilities(Some(capability::sets(&granted)));
    process.set_rlimits(Some(limit::rlimits(flags)));
    process.set_no_new_privileges(Some(security.no_new_privileges));
    // The agent's own score, which protects it, must not be inherited.
    process.set_oom_score_adj(Some(0));
    Ok(process)
}

/// The user as text: who that is, only the image knows, so the agent looks it up.
fn user(text: &str) -> User {
    let mut user = User::default();
    user.set_username((!text.is_empty()).then(|| text.to_owned()));
    user
}

/// One more process in a container: like its first one, unless flags say otherwise.
pub fn exec_process(flags: &ExecFlags, record: &ContainerRecord) -> Result<Process> {
    let requested = environment::requested(&flags.env_file, &flags.env, &environment::ours)?;
    let mut process = record.spec.process().clone().unwrap_or_default();
    process.set_terminal(Some(flags.tty));
    process.set_args(Some(flags.args.clone()));
    if let Some(text) = &flags.user {
        process.set_user(user(text));
    }
    if let Some(directory) = &flags.workdir {
        process.set_cwd(directory.into());
    }
    let mut variables = process.env().clone().unwrap_or_default();
    if flags.tty
        && !variables
            .iter()
            .any(|variable| variable.starts_with("TERM="))
    {
        variables.push(environment::DEFAULT_TERM.to_owned());
    }
    process.set_env(Some(environment::replace_or_append(variables, &requested)));
    if flags.privileged {
        process.set_capabilities(Some(all_capabilities()));
    }
    Ok(process)
}

fn all_capabilities() -> LinuxCapabilities {
    capability::sets(&capability::granted(&[], &[], true))
}
