//! Name and label rules (RFC 1035, RFC 1123, qualified names), with upstream's messages.
