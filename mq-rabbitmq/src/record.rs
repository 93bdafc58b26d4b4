//! Keeps the orderly returns of an ordered group's queues, and what their messages that hold their key come with
//! next, each in a small queue beside it.
//!
//! Only the member that has a queue reads or writes its record.

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use mq_core::envelope::Envelope;
use mq_core::{Message, Result};

use crate::codec;
use crate::kept::{Keep, Lines};
use crate::names;
use crate::publish::Publisher;
use crate::returns::Returns;
use crate::settle::Stored;
use crate::topology::Topology;

/// Reads the record of a queue.
pub(crate) async fn read(topology: &Topology, queue: &str) -> Result<Returns> {
    let name = names::returns(queue);
    if topology.find_queue(&name).await?.is_none() {
        return Ok(Returns::default());
    }
    let channel = topology.channel().await?;
    let mut returns = Returns::default();
    let found = look(topology, &channel, &name, |record| returns.merge(Returns::parse(record))).await;
    topology.leave(&channel).await;
    found.map(|_| returns)
}

/// Replaces the record of a queue before `held`, marks and the broker's counts, is returned to it.
pub(crate) async fn write(
    topology: &Topology,
    courier: &Publisher,
    queue: &str,
    known: &Returns,
    held: &[Stored],
) -> Result<()> {
    let name = names::returns(queue);
    topology.declare_record(&name).await?;
    let channel = topology.channel().await?;
    let written = replace(topology, &channel, courier, &name, known, held).await;
    topology.leave(&channel).await;
    written
}

async fn replace(
    topology: &Topology,
    channel: &Channel,
    courier: &Publisher,
    name: &str,
    known: &Returns,
    held: &[Stored],
) -> Result<()> {
    let mut old = Returns::default();
    let last = look(topology, channel, name, |record| old.merge(Returns::parse(record))).await?;
    old.merge(known.clone());
    let mut new = Returns::default();
    for (mark, counted) in held {
        new.note(*mark, *counted, old.orderly(*mark, *counted));
    }
    store(courier, name, new.to_string()).await?;
    forget(topology, channel, last).await
}

/// Reads what a queue's messages that hold their key come with next.
pub(crate) async fn read_kept(topology: &Topology, queue: &str) -> Result<Lines> {
    let name = names::kept(queue);
    if topology.find_queue(&name).await?.is_none() {
        return Ok(Lines::default());
    }
    let channel = topology.channel().await?;
    let found = look_kept(topology, &channel, &name).await;
    if let Ok((_, Some(tag))) = &found {
        // Back before the channel closes: who writes next must find it.
        let back = channel.basic_nack(*tag, BasicNackOptions { multiple: true, requeue: true });
        topology.reply("giving a record back", back).await?;
    }
    topology.leave(&channel).await;
    Ok(found?.0)
}

/// Replaces the record of what a queue's messages come with next: adds `new`, leaves out what is settled.
pub(crate) async fn write_kept(
    topology: &Topology,
    courier: &Publisher,
    queue: &str,
    keep: &mut Keep,
    new: &Lines,
) -> Result<()> {
    let name = names::kept(queue);
    let channel = topology.channel().await?;
    let written = replace_kept(topology, &channel, courier, &name, keep, new).await;
    topology.leave(&channel).await;
    written
}

async fn replace_kept(
    topology: &Topology,
    channel: &Channel,
    courier: &Publisher,
    name: &str,
    keep: &mut Keep,
    new: &Lines,
) -> Result<()> {
    let (old, last) = look_kept(topology, channel, name).await?;
    let new = keep.replace(old, new);
    if !new.is_empty() {
        store(courier, name, new.to_string()).await?;
    }
    forget(topology, channel, last).await
}

async fn look_kept(topology: &Topology, channel: &Channel, name: &str) -> Result<(Lines, Option<u64>)> {
    let mut lines = Lines::default();
    let last = look(topology, channel, name, |record| lines.merge(Lines::parse(record))).await?;
    Ok((lines, last))
}

async fn store(courier: &Publisher, name: &str, record: String) -> Result<()> {
    let item = codec::to_queue(name, Message::new(record), &Envelope::default())?;
    courier.publish(vec![item]).await.into_iter().collect()
}

/// Removes the old record: until the new one is stored, it stays.
async fn forget(topology: &Topology, channel: &Channel, last: Option<u64>) -> Result<()> {
    let Some(tag) = last else { return Ok(()) };
    let acked = channel.basic_ack(tag, BasicAckOptions { multiple: true });
    topology.reply("replacing a record", acked).await
}

/// Takes what is there on a channel that gives it back when it closes; returns the last tag.
async fn look(
    topology: &Topology,
    channel: &Channel,
    name: &str,
    mut read: impl FnMut(&[u8]),
) -> Result<Option<u64>> {
    let mut last = None;
    loop {
        let got = channel.basic_get(name.into(), BasicGetOptions::default());
        let Some(message) = topology.reply("reading a record", got).await? else { return Ok(last) };
        last = Some(message.delivery.delivery_tag);
        read(&message.delivery.data);
    }
}
