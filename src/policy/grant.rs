//! The permission that opens a repository.

use crate::model::{Actor, RepoName};

/// What a session wants to do with a whole repository. What a push may do to each reference is asked again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    Write,
}

/// The proof that the policy lets an actor into a repository. Only `admin::Realm` makes one, and without one there
/// is no repository to open. It says nothing about server-wide orders, and it cannot be copied or widened.
#[derive(Debug)]
pub struct Grant {
    repo: RepoName,
    access: Access,
    actor: Actor,
}

impl Grant {
    /// For `admin::Realm` alone (a test of the import table holds the others off).
    pub(crate) fn by_policy(repo: RepoName, access: Access, actor: Actor) -> Self {
        Self { repo, access, actor }
    }

    pub fn repo(&self) -> &RepoName {
        &self.repo
    }

    pub fn access(&self) -> Access {
        self.access
    }

    pub fn actor(&self) -> &Actor {
        &self.actor
    }
}
