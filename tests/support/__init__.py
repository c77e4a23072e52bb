"""What tests share: servers, stores, processes and models to try ours against."""
