//! What is measured of a web server: its first answer, its latency, its throughput.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::Client;
use crate::runtime::Interrupt;

/// Between two attempts at a first answer.
const INTERVAL: Duration = Duration::from_millis(10);

/// Requests before measuring begins: a just-in-time compiler has seen its code by then.
const WARM_UP: usize = 20;

/// Requests that are measured.
const REQUESTS: usize = 50;

/// Clients at the same time, and for how long.
const CLIENTS: usize = 4;
const TIME: Duration = Duration::from_secs(2);

type Measured<T> = Result<T, String>;

/// Seconds from `begin` to the first answer with status 200.
pub fn first_answer(
    address: SocketAddr,
    path: &str,
    begin: Instant,
    patience: Duration,
    interrupt: &Interrupt,
) -> Measured<f64> {
    loop {
        // Until the application listens, it is refused or reset.
        let answer = Client::connect(address, path).and_then(|mut client| client.get());
        let elapsed = begin.elapsed();
        match answer {
            Ok(()) => return Ok(elapsed.as_secs_f64()),
            Err(_) if interrupt.is_set() => return Err("interrupted".to_owned()),
            Err(error) if elapsed > patience => {
                return Err(format!(
                    "no answer from http://{address}{path} within {} s; last: {error}",
                    patience.as_secs()
                ));
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Seconds of each of fifty requests, after a warm-up.
pub fn latencies(address: SocketAddr, path: &str) -> Measured<Vec<f64>> {
    let failed = |number: usize, error| {
        format!(
            "request {number} of {} to http://{address}{path} failed: {error}",
            WARM_UP + REQUESTS
        )
    };
    let mut client = Client::connect(address, path).map_err(|error| failed(1, error))?;
    let mut seconds = Vec::with_capacity(REQUESTS);
    for number in 1..=WARM_UP + REQUESTS {
        let begin = Instant::now();
        client.get().map_err(|error| failed(number, error))?;
        if number > WARM_UP {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

/// Answers a second to some clients at the same time.
pub fn throughput(address: SocketAddr, path: &str) -> Measured<f64> {
    let begin = Instant::now();
    let one = || -> std::io::Result<u32> {
        let mut client = Client::connect(address, path)?;
        let mut answers = 0;
        while begin.elapsed() < TIME {
            client.get()?;
            answers += 1;
        }
        Ok(answers)
    };
    let answers = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        let mut all = 0;
        for client in clients {
            let of_client = client
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("the client panicked")));
            all += of_client.map_err(|error| {
                format!("a request under load to http://{address}{path} failed: {error}")
            })?;
        }
        Ok::<u32, String>(all)
    })?;
    // Until the last answer: it began in time.
    Ok(f64::from(answers) / begin.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A server whose answers after the first `good` ones have status 500.
    fn server(good: usize) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let count = std::sync::Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming().map_while(Result::ok) {
                let (mut stream, count) = (stream, count.clone());
                std::thread::spawn(move || {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).is_ok_and(|read| read > 0) {
                        let status = if count.fetch_add(1, Ordering::Relaxed) < good {
                            "200 OK"
                        } else {
                            "500 Broken"
                        };
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[test]
    fn every_status_counts() {
        let address = server(usize::MAX);
        assert_eq!(latencies(address, "/").map(|all| all.len()), Ok(REQUESTS));
        assert!(throughput(address, "/").is_ok_and(|rate| rate > 0.0));
        let breaks = server(WARM_UP + 3);
        let error = latencies(breaks, "/").expect_err("the fourth measured request");
        assert!(
            error.contains("request 24 of 70") && error.contains("500"),
            "{error}"
        );
        assert!(throughput(breaks, "/").is_err());
    }

    #[test]
    fn a_first_answer_is_waited_for_and_not_for_ever() {
        let interrupt = Interrupt::default();
        let wait =
            |address, patience| first_answer(address, "/", Instant::now(), patience, &interrupt);
        assert!(wait(server(1), Duration::from_secs(60)).is_ok());
        let error = wait(server(0), Duration::ZERO).expect_err("only errors");
        assert!(error.contains("500"), "{error}");
    }
}
