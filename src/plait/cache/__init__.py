"""Paged KV bookkeeping: page pool, page tables, radix tree. Ints only."""
