//! The work that goes on beside the requests.
//!
//! ```text
//!   drivers ──▶ App ──▶ PostgreSQL ◀──── position_writer ◀── positions ── the fleet in memory
//!                           │                                                ▲        │
//!                           └──── change log ──── fleet_follower ────────────┘        │
//!   JetStream ◀──────────────────────────── supply_publisher ◀── supply of each zone ─┘
//! ```

pub mod fleet_follower;
pub mod overdue_pickups;
pub mod position_writer;
pub mod supply_publisher;
