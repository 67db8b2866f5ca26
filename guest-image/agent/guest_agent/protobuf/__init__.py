"""Protocol Buffers' binary form, read and written by tables: the guest carries no protobuf library."""
