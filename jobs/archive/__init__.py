"""What has left the ledger: files that only grow, and how they are read.

archive        what leaves the ledger for the archive
archive_files  files of JSON lines that only grow, rotated by size
archive_index  where each archived job stands in those files, by its id and by its time
archived       what has left, as it is read
audited        who did what, as it is read: from the ledger, and what has left it
"""
