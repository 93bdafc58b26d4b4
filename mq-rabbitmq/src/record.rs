//! Keeps the orderly returns of an ordered group's queues, each in a small queue beside it.
//!
//! Only the member that has a queue reads or writes its record.

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use mq_core::envelope::Envelope;
use mq_core::{Message, Result};

use crate::codec;
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
    let found = look(topology, &channel, &name).await;
    topology.leave(&channel).await;
    Ok(found?.0)
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
    let (mut old, last) = look(topology, channel, name).await?;
    old.merge(known.clone());
    let mut new = Returns::default();
    for (mark, counted) in held {
        new.note(*mark, *counted, old.orderly(*mark, *counted));
    }
    let item = codec::to_queue(name, Message::new(new.to_string()), &Envelope::default())?;
    courier.publish(vec![item]).await.into_iter().collect::<Result<()>>()?;
    match last {
        // Until the new record is stored, the old one stays.
        Some(tag) => {
            let acked = channel.basic_ack(tag, BasicAckOptions { multiple: true });
            topology.reply("replacing a record", acked).await
        }
        None => Ok(()),
    }
}

/// Takes what is there on a channel that gives it back when it closes; returns the last tag too.
async fn look(topology: &Topology, channel: &Channel, name: &str) -> Result<(Returns, Option<u64>)> {
    let (mut returns, mut last) = (Returns::default(), None);
    loop {
        let got = channel.basic_get(name.into(), BasicGetOptions::default());
        let Some(message) = topology.reply("reading a record", got).await? else {
            return Ok((returns, last));
        };
        last = Some(message.delivery.delivery_tag);
        returns.merge(Returns::parse(&message.delivery.data));
    }
}
