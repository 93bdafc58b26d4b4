//! `mq dead`.

mod select;

use clap::Subcommand;
use mq::{Admin, DeadLetter, GroupName, TopicName};

use crate::end::End;
use crate::line::DeadLine;
use crate::output::{Done, figure, many, readable};
use crate::session::{CLOSE, Session};
use crate::values::rfc3339;
use select::{Letters, Select};

/// List, show, redrive and purge the dead letters of a group
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List dead letters, oldest first; looking changes nothing
    #[command(after_help = "Example:\n  mq dead list orders --group billing --reason timeout --limit 20")]
    List(Args),
    /// Show dead letters in full
    #[command(
        after_help = "Example:\n  mq dead show orders --group billing --id 0190b0a2-0000-7000-8000-000000000000"
    )]
    Show(Args),
    /// Give dead letters back to their group, and to no other, as first attempts
    #[command(after_help = "Example:\n  mq dead redrive orders --group billing --all")]
    Redrive(Args),
    /// Remove dead letters for good
    #[command(
        after_help = "Example:\n  mq dead purge orders --group billing --reason 'max attempts' --limit 100"
    )]
    Purge(Args),
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic
    topic: TopicName,
    /// The group
    #[arg(long, value_name = "G")]
    group: GroupName,
    #[command(flatten)]
    select: Select,
}

pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<End> {
    if let Command::Show(args) | Command::Redrive(args) | Command::Purge(args) = &command {
        args.select.require()?;
    }
    let client = session.connect().await?;
    let admin = client.admin();
    let end = match command {
        Command::List(args) => list(session, &admin, &args, false).await?,
        Command::Show(args) => list(session, &admin, &args, true).await?,
        Command::Redrive(args) => change(session, &admin, &args, Change::Redrive).await?,
        Command::Purge(args) => change(session, &admin, &args, Change::Purge).await?,
    };
    session.output.flush()?;
    client.close(CLOSE).await?;
    Ok(end)
}

async fn list(session: &Session, admin: &Admin, args: &Args, full: bool) -> anyhow::Result<End> {
    let mut letters = Letters::new(admin, args);
    let mut rows = Vec::new();
    while let Some(page) = letters.page().await? {
        for letter in &page {
            if session.output.json {
                let line = DeadLine::new(args.topic.as_str(), args.group.as_str(), letter);
                session.output.json(&line)?;
            } else if full {
                session.output.text(&words(letter))?;
            } else {
                rows.push(row(letter));
            }
        }
    }
    if !session.output.json && !full {
        session.output.table(["dead at", "id", "attempts", "reason", "error"], &rows)?;
    }
    Ok(missing(args, letters.found()))
}

/// Says which of the ids asked for are not there.
fn missing(args: &Args, found: &[mq::MessageId]) -> End {
    let missing: Vec<String> =
        args.select.ids().filter(|id| !found.contains(id)).map(|id| id.to_string()).collect();
    if missing.is_empty() {
        return End::Done;
    }
    eprintln!("no dead letter of group {} has the id {}", args.group, missing.join(", "));
    End::Failed
}

#[derive(Clone, Copy)]
enum Change {
    Redrive,
    Purge,
}

async fn change(session: &Session, admin: &Admin, args: &Args, change: Change) -> anyhow::Result<End> {
    let (selection, found) = select::selection(admin, args).await?;
    let (topic, group) = (&args.topic, &args.group);
    let mut done = Done { topic: topic.as_str(), group: Some(group.as_str()), ..Done::default() };
    let (word, count) = match change {
        Change::Redrive => ("redriven", done.redriven.insert(admin.redrive(topic, group, &selection).await?)),
        Change::Purge => ("purged", done.purged.insert(admin.purge(topic, group, &selection).await?)),
    };
    eprintln!("{word}: {}", many(*count, "dead letter"));
    if session.output.json {
        session.output.json(&done)?;
    }
    Ok(missing(args, &found))
}

fn row(letter: &DeadLetter) -> [String; 5] {
    let death = letter.envelope.death.as_ref();
    [
        figure(death.map(|death| rfc3339(death.at))),
        letter.message.id.to_string(),
        letter.envelope.attempt.to_string(),
        figure(death.map(|death| readable(death.reason.as_bytes()))),
        figure(letter.envelope.error.as_deref().map(|error| readable(error.as_bytes()))),
    ]
}

fn words(letter: &DeadLetter) -> String {
    let (message, envelope) = (&letter.message, &letter.envelope);
    let [dead_at, id, attempts, reason, error] = row(letter);
    let mut lines = vec![
        format!("id          {id}"),
        format!("dead at     {dead_at}"),
        format!("reason      {reason}"),
        format!("error       {error}"),
        format!("attempts    {attempts}"),
        format!("first seen  {}", figure(envelope.first_seen.map(rfc3339))),
        format!("published   {}", figure(message.published_at.map(rfc3339))),
        format!("key         {}", figure(message.key.as_deref().map(readable))),
        format!("subject     {}", figure(message.subject.as_deref())),
    ];
    for (name, value) in message.headers.iter() {
        lines.push(format!("header      {}={}", readable(name.as_bytes()), readable(value)));
    }
    lines.push(format!("body        {}\n", readable(&message.payload)));
    lines.join("\n")
}
