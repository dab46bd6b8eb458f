//! What a container's first process does before it is its program.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use caisson_protocol::agent::ContainerDescription;
use rustix::thread::UnshareFlags;

use crate::child::{PremadeMounts, Program, Reporter, View};
use crate::error::{Error, Result};

/// A container as its first process finds it.
#[derive(Debug, Clone, Copy)]
pub struct First<'a> {
    /// What it is to be.
    pub description: &'a ContainerDescription,
    /// Where the agent has mounted its files.
    pub rootfs: &'a Path,
    /// Where it has mounted what the container writes, if that is apart.
    pub layer: Option<&'a Path>,
    /// Files of the agent's and the paths in the container over which they are put.
    pub files: &'a [(PathBuf, PathBuf)],
    /// File systems that are there already.
    pub premade: &'a PremadeMounts,
}

impl First<'_> {
    /// Becomes the program, in the container's own namespaces.
    pub fn execute(&self, program: &Program<'_>, reporter: &Reporter) -> Result<Infallible> {
        program.leave_agent()?;
        let has = |kind: libc::c_int| self.description.namespaces & kind as u64 != 0;
        if has(libc::CLONE_NEWCGROUP) {
            // Not with the others: its root is the cgroup in which it is made.
            // SAFETY: the process has one thread, and its descriptors stay shared with nobody.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
                .map_err(Error::system("make a cgroup namespace"))?;
        }
        if let Some(hostname) = &self.description.hostname
            && has(libc::CLONE_NEWUTS)
        {
            rustix::system::sethostname(hostname.as_bytes())
                .map_err(Error::system("set the host name"))?;
        }
        if let Some(domain) = &self.description.domainname
            && has(libc::CLONE_NEWUTS)
        {
            rustix::system::setdomainname(domain.as_bytes())
                .map_err(Error::system("set the domain name"))?;
        }
        self.enter_view()?;
        program.execute(reporter)
    }

    /// Makes the container's files the root of this process, which is a child in a
    /// mount namespace of its own.
    pub fn enter_view(&self) -> Result<()> {
        View {
            rootfs: self.rootfs,
            layer: self.layer,
            premade: self.premade,
            description: self.description,
            files: self.files,
        }
        .enter()
    }
}
