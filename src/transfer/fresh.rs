//! A damaged copy is made anew: its master sends everything, into an empty repository that then takes its place.
//!
//! git believes that an object it has is sound, so no push into a damaged repository would mend it. Until the fresh
//! copy is whole, readers have what is left of the old one; afterwards that one is in the trash.

use std::io;

use tokio::io::AsyncWriteExt as _;

use super::receive::{COMMANDS_MAX, Client, collect, run};
use super::request::{Input, MirrorPush, Output, Streams};
use super::{Refusal, Request, Transfer, copy_head};
use crate::admin::Denial;
use crate::git::pktline::{self, Reader};
use crate::git::protocol::Advertisement;
use crate::git::receive::{self, Asked};
use crate::model::{Actor, RefUpdate};
use crate::repo::{self, Fresh, Repo};

impl Transfer {
    /// Serves a mirror push into a fresh copy of `damaged`; the exit code is 0 when it has replaced it.
    pub(super) async fn receive_fresh<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        push: &MirrorPush,
        damaged: &Repo,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        let (store, name) = (self.store.clone(), damaged.name.clone());
        let fresh = self.blocking(move || store.fresh(&name)).await?.map_err(|error| self.internal(&error))?;
        match self.fill(request, push, damaged, fresh, streams).await {
            Ok(code) => Ok(code),
            Err(error) => {
                tracing::debug!(%error, repo = %damaged.name, "the master left before the fresh copy was whole");
                Ok(1)
            }
        }
    }

    async fn fill<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        push: &MirrorPush,
        damaged: &Repo,
        fresh: Fresh,
        streams: &mut Streams<R, W, E>,
    ) -> io::Result<u32> {
        let Streams { input, output, errors } = streams;
        let mut input = Reader::new(input);
        let mut offered = Vec::new();
        Advertisement::of_push().end(&mut offered);
        output.write_all(&offered).await?;
        let mut said = Vec::new();
        let whole = collect(&mut input, &mut said, COMMANDS_MAX).await.map_err(io::Error::other)?;
        let mut client = Client { output, errors, banded: true, there: true };
        let asked = match receive::parse(&said) {
            Asked::Push(asked) if whole => asked,
            // A master that held the push back has said nothing at all.
            Asked::Nothing if said == pktline::FLUSH => {
                client.banded = false;
                let placed = self.place(request, push, damaged, fresh, Vec::new(), &mut client).await;
                placed.map_err(io::Error::other)?;
                return Ok(0);
            }
            Asked::Nothing => return Ok(0),
            _ => return Err(io::Error::other("more references, or other words, than a fresh copy is made from")),
        };
        client.banded = asked.banded;
        let received = match self.take_pack(request, fresh.repo(), &asked, false, &mut input, &mut client).await {
            Ok(taken) if taken.missing.is_empty() => {
                self.place(request, push, damaged, fresh, asked.updates.clone(), &mut client).await
            }
            Ok(_) => Err(Denial::in_short(Denial::GIT, "missing necessary objects")),
            Err(why) => Err(why),
        };
        let results: Vec<_> =
            asked.updates.iter().map(|update| (update.name.to_string(), received.clone().err())).collect();
        let text = receive::report(Ok(()), &results, None);
        if client.banded {
            let mut out = Vec::new();
            pktline::multiplex(&mut out, 1, &text);
            out.extend_from_slice(pktline::FLUSH);
            client.write(&out).await;
        } else {
            client.write(&text).await;
        }
        Ok(u32::from(received.is_err()))
    }

    /// The references and HEAD, what was kept aside in the old copy, and the exchange. The error is for the master.
    async fn place<W: Output, E: Output>(
        &self,
        request: &Request,
        push: &MirrorPush,
        damaged: &Repo,
        fresh: Fresh,
        updates: Vec<RefUpdate>,
        client: &mut Client<'_, W, E>,
    ) -> Result<(), String> {
        let internal = |error: &dyn std::fmt::Display| self.internal(error);
        let moved = self.move_references(request, fresh.repo(), updates, true, client).await;
        if let Some(why) = moved.into_iter().find_map(|(_, failure)| failure) {
            return Err(why);
        }
        copy_head(fresh.repo(), push).await?;
        // What an earlier repair has set aside is here only, and hidden from those who fetch.
        let from = damaged.dir().display().to_string();
        let program = "--upload-pack=git -c transfer.hideRefs=!refs/gitmesh upload-pack";
        let arguments =
            ["fetch", "-q", "--no-tags", "--no-write-fetch-head", program, &from, "refs/gitmesh/*:refs/gitmesh/*"];
        let git = self.git.start(fresh.repo().dir(), &arguments, &[]).map_err(|error| internal(&error))?;
        if !run(git, tokio::io::empty(), client).await.map_err(|error| internal(&error))? {
            tracing::warn!(repo = %damaged.name, "what was kept under refs/gitmesh/ is in the trash only");
        }
        match repo::promised_epoch(damaged.dir()).map_err(|error| internal(&error))? {
            promised if promised <= push.epoch => {}
            promised => return Err(format!("epoch {} is over: {promised} has been promised here", push.epoch)),
        }
        let (store, Actor::Node(by)) = (self.store.clone(), request.actor.clone()) else {
            return Err("only the node that is master of a repository mirrors it".to_owned());
        };
        let replaced = tokio::task::spawn_blocking(move || store.replace(fresh, by.as_str())).await;
        let at = replaced.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
        tracing::warn!(repo = %damaged.name, %at, "a damaged copy was made anew; the old one is in the trash");
        Ok(())
    }
}
