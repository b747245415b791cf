//! Sides of calls that wait for the other.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::calls::{Call, Half, Side, Taken};

/// Sides of one call.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) client: Option<Half>,
    /// Whether the client found a server. It goes on waiting: one message has many consumers.
    pub(super) answered: bool,
    /// Servers whose client did not come yet.
    pub(super) servers: Vec<Half>,
}

/// All that wait.
#[derive(Debug)]
pub(super) struct Pairs {
    wait: i64,
    waiting_max: usize,
    /// Sides that are held.
    pub(super) held: usize,
    pub(super) waiting: HashMap<u128, Waiting>,
    /// Calls in the order in which their first side came, with the elapsed time of the tick after.
    pub(super) ticks: VecDeque<(i64, Vec<u128>)>,
    /// Those that came since the last tick.
    pub(super) fresh: Vec<u128>,
}

impl Pairs {
    pub(super) fn new(wait: i64, waiting_max: usize) -> Self {
        Self {
            wait,
            waiting_max,
            held: 0,
            waiting: HashMap::new(),
            ticks: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    /// Takes a side in, and adds the calls that it completes. Says whether there was room.
    pub(super) fn take(&mut self, taken: Taken, calls: &mut Vec<Call>) -> bool {
        let Taken { key, half } = taken;
        let received = half.received;
        let Some(key) = key else {
            let server = Some(half);
            calls.push(Call { client: None, server, received, outside: true });
            return true;
        };
        let room = self.held < self.waiting_max;
        let Some(waiting) = self.waiting.get_mut(&key) else {
            if !room {
                return false;
            }
            let mut waiting = Waiting::default();
            match half.side {
                Side::Client => waiting.client = Some(half),
                Side::Server => waiting.servers.push(half),
            }
            self.waiting.insert(key, waiting);
            self.fresh.push(key);
            self.held += 1;
            return true;
        };
        let call = |client: &Half, server: Half| Call {
            client: Some(client.clone()),
            server: Some(server),
            received,
            outside: false,
        };
        match (half.side, &waiting.client) {
            (Side::Server, Some(client)) => {
                calls.push(call(client, half));
                waiting.answered = true;
            }
            (Side::Server, None) if room => {
                waiting.servers.push(half);
                self.held += 1;
            }
            (Side::Server, None) => return false,
            (Side::Client, None) => {
                self.held -= waiting.servers.len();
                self.held += 1;
                waiting.answered = true;
                calls.extend(waiting.servers.drain(..).map(|server| call(&half, server)));
                waiting.client = Some(half);
            }
            // The same span once more.
            (Side::Client, Some(_)) => {}
        }
        true
    }

    /// Adds the calls that have waited long enough for their other side.
    pub(super) fn tick(&mut self, elapsed: i64, calls: &mut Vec<Call>) {
        if !self.fresh.is_empty() {
            self.ticks.push_back((elapsed, std::mem::take(&mut self.fresh)));
        }
        while let Some((since, _)) = self.ticks.front()
            && elapsed.saturating_sub(*since) >= self.wait
        {
            let keys = self.ticks.pop_front().map(|(_, keys)| keys).unwrap_or_default();
            keys.into_iter().for_each(|key| self.give_up(key, calls));
        }
    }

    /// Adds all that wait, as they are.
    pub(super) fn flush(&mut self, calls: &mut Vec<Call>) {
        let ticks = std::mem::take(&mut self.ticks).into_iter().flat_map(|(_, keys)| keys);
        let keys: Vec<u128> = ticks.chain(std::mem::take(&mut self.fresh)).collect();
        keys.into_iter().for_each(|key| self.give_up(key, calls));
    }

    fn give_up(&mut self, key: u128, calls: &mut Vec<Call>) {
        let Some(waiting) = self.waiting.remove(&key) else { return };
        self.held -= waiting.servers.len() + usize::from(waiting.client.is_some());
        let alone = |client: Option<Half>, server: Option<Half>, received| Call {
            client,
            server,
            received,
            outside: false,
        };
        if let Some(client) = waiting.client.filter(|_| !waiting.answered) {
            let received = client.received;
            calls.push(alone(Some(client), None, received));
        }
        for server in waiting.servers {
            let received = server.received;
            calls.push(alone(None, Some(server), received));
        }
    }
}
