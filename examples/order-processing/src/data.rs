//! Reads the orders; a row that is wrong is set aside with what is wrong and how to write it.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use csv::StringRecord;

use crate::order::Order;

/// The orders that come with the example.
const CDNOW: &[u8] = include_bytes!("../data/cdnow-orders.csv");

const COLUMNS: [&str; 5] = ["order_id", "date", "customer_id", "quantity", "amount_usd"];

/// What was read.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) orders: Vec<Order>,
    pub(crate) rejected: Vec<Rejected>,
}

/// A row that is no order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) line: u64,
    pub(crate) problem: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// Reads `path`, or the orders that come with the example; at most `limit` rows.
pub(crate) fn read(path: Option<&Path>, limit: Option<usize>) -> Result<Data> {
    let limit = limit.unwrap_or(usize::MAX);
    let Some(path) = path else { return parse(CDNOW, limit) };
    let bytes = std::fs::read(path).with_context(|| {
        format!("cannot read {}; name a readable file with --data, or leave it out", path.display())
    })?;
    parse(&bytes, limit).with_context(|| format!("cannot use {}", path.display()))
}

fn parse(bytes: &[u8], limit: usize) -> Result<Data> {
    // Without quoting a stray quote spoils its own line, not the ones behind it.
    let mut reader = csv::ReaderBuilder::new().flexible(true).quoting(false).from_reader(bytes);
    let header = reader.headers().context("the first line is not text")?;
    if header != COLUMNS.as_slice() {
        let found = header.iter().collect::<Vec<_>>().join(",");
        bail!("the first line is {found:?}; it must be {:?}", COLUMNS.join(","));
    }
    let mut data = Data { orders: Vec::new(), rejected: Vec::new() };
    let mut lines = HashMap::new();
    for row in reader.into_records().take(limit) {
        match row.map_err(|error| wrong_row(&error)).and_then(|row| order(&row, &mut lines)) {
            Ok(order) => data.orders.push(order),
            Err(rejected) => data.rejected.push(rejected),
        }
    }
    Ok(data)
}

fn wrong_row(error: &csv::Error) -> Rejected {
    let line = error.position().map_or(0, csv::Position::line);
    let problem = match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => {
            format!("column {} is not UTF-8; save the file as UTF-8", COLUMNS[err.field().min(4)])
        }
        _ => error.to_string(),
    };
    Rejected { line, problem }
}

fn order(row: &StringRecord, lines: &mut HashMap<u64, u64>) -> Result<Order, Rejected> {
    let line = row.position().map_or(0, csv::Position::line);
    let order = fields(row, line).map_err(|problem| Rejected { line, problem })?;
    let first = *lines.entry(order.id).or_insert(line);
    if first != line {
        let problem =
            format!("order_id {} is that of line {first}; give each order an id of its own", order.id);
        return Err(Rejected { line, problem });
    }
    Ok(order)
}

fn fields(row: &StringRecord, line: u64) -> Result<Order, String> {
    let [id, date, customer, quantity, amount] = row.iter().collect::<Vec<_>>()[..] else {
        return Err(format!("{} columns; write all {}: {}", row.len(), COLUMNS.len(), COLUMNS.join(",")));
    };
    Ok(Order {
        id: whole("order_id", id)?,
        line,
        date: day(date)?,
        customer: text(customer)?,
        quantity: match whole("quantity", quantity)? {
            0 => return Err("quantity is 0; an order has at least 1 piece".into()),
            pieces => pieces,
        },
        cents: cents(amount)?,
    })
}

fn whole(column: &str, field: &str) -> Result<u64, String> {
    let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { field.parse::<u32>().ok() } else { None };
    number.map(u64::from).ok_or_else(|| {
        format!("{column} {field:?} is not a whole number up to {}; write it like 17", u32::MAX)
    })
}

fn text(field: &str) -> Result<String, String> {
    match field.len() {
        0 => Err("customer_id is empty; write who ordered".into()),
        1..=64 => Ok(field.to_owned()),
        long => Err(format!("customer_id has {long} bytes; the limit is 64")),
    }
}

fn day(field: &str) -> Result<String, String> {
    let parts: Vec<&str> = field.split('-').collect();
    let number = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse::<u32>().ok())
            .flatten()
    };
    let valid = match parts[..] {
        [year, month, day] => match (number(year, 4), number(month, 2), number(day, 2)) {
            (Some(year), Some(month @ 1..=12), Some(day)) => (1..=days_of(year, month)).contains(&day),
            _ => false,
        },
        _ => false,
    };
    if valid {
        Ok(field.to_owned())
    } else {
        Err(format!("date {field:?} is no day; write it like 1997-01-31"))
    }
}

fn days_of(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads dollars with up to two decimals as cents; floating point would round.
fn cents(field: &str) -> Result<u64, String> {
    let wrong = || format!("amount_usd {field:?} is not an amount; write it like 11.77");
    let (dollars, decimals) = field.split_once('.').unwrap_or((field, "0"));
    let dollars = whole("amount_usd", dollars).map_err(|_| wrong())?;
    let decimals = match decimals.len() {
        1 => whole("amount_usd", decimals).map_err(|_| wrong())? * 10,
        2 => whole("amount_usd", decimals).map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    Ok(dollars * 100 + decimals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&str]) -> Data {
        let text = format!("{}\n{}\n", COLUMNS.join(","), rows.join("\n"));
        parse(text.as_bytes(), usize::MAX).unwrap()
    }

    #[test]
    fn the_data_that_comes_with_the_example_is_clean() {
        let data = read(None, None).unwrap();
        assert_eq!((data.orders.len(), data.rejected.len()), (69_659, 0));
        assert_eq!(data.orders.iter().filter(|order| order.cents == 0).count(), 80);
        let customers: std::collections::HashSet<_> =
            data.orders.iter().map(|order| &order.customer).collect();
        assert_eq!(customers.len(), 23_570);
        assert_eq!(read(None, Some(10)).unwrap().orders.len(), 10);
    }

    #[test]
    fn a_wrong_row_is_set_aside_with_its_line_and_the_rest_is_read() {
        let data = rows(&[
            "1,1997-01-01,00001,1,11.77",
            "2,1997-02-30,00001,1,11.77",
            "x,1997-01-01,00001,1,11.77",
            "4,1997-01-01,,1,11.77",
            "5,1997-01-01,00001,0,11.77",
            "6,1997-01-01,00001,1,11.777",
            "7,1997-01-01,00001,1,-1",
            "8,1997-01-01,00001,1",
            "1,1997-01-01,00002,1,5",
            "10,1997-01-01,\"00001,1,5.5",
            "11,1997-01-01,00001,1,0",
        ]);
        let problems: Vec<String> = data.rejected.iter().map(ToString::to_string).collect();
        let expected = [
            "line 3: date \"1997-02-30\"",
            "line 4: order_id \"x\"",
            "line 5: customer_id is empty",
            "line 6: quantity is 0",
            "line 7: amount_usd \"11.777\"",
            "line 8: amount_usd \"-1\"",
            "line 9: 4 columns",
            "line 10: order_id 1 is that of line 2",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
        let good: Vec<_> = data.orders.iter().map(|order| (order.id, order.line, order.cents)).collect();
        assert_eq!(good, [(1, 2, 1177), (10, 11, 550), (11, 12, 0)]);
    }

    #[test]
    fn bytes_that_are_no_text_spoil_only_their_line() {
        let mut text = format!("{}\n1,1997-01-01,", COLUMNS.join(",")).into_bytes();
        text.extend(b"\xff\xfe,1,5\n2,1997-01-01,00001,1,5\n");
        let data = parse(&text, usize::MAX).unwrap();
        assert_eq!(data.orders.len(), 1);
        assert!(data.rejected[0].to_string().contains("line 2: column customer_id is not UTF-8"));
    }

    #[test]
    fn another_header_is_an_error_that_names_the_right_one() {
        let error = parse(b"id,day\n1,2\n", usize::MAX).unwrap_err().to_string();
        assert!(error.contains("order_id,date,customer_id,quantity,amount_usd"), "{error}");
    }
}
