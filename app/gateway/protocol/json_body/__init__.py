"""The JSON body of a request, as Go's decoder reads it: the fields of it that decide something, and its changes.

cut_texts  long texts cut off behind their beginning: in a body before it is read, and in the outline of a value
edits      what of a body is replaced, and by what
fields     the values that were found: whether they are there, of what kind they are, and what they say
go_values  values and names as Go's decoder has them
scan       one pass over the bytes of a body, which notes where values stand and refuses what is no JSON
search     looks for fields in a body: with the library's own reader where that will do, else by the pass
"""
