"""What a stage is: its workspace folder, its manifest, its KFP pointer."""
