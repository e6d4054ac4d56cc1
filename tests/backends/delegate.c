/* A delegate that claims no operator, or does what its option says: fail (refuse), crash (segmentation fault in Prepare).
   The heads of the two runtime structures are spelled out so that no vendor header is needed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct context;
struct delegate {
    void *data;
    int (*prepare)(struct context *, struct delegate *);
    int (*copy_from)(struct context *, struct delegate *, int, void *);
    int (*copy_to)(struct context *, struct delegate *, int, void *);
    void (*free_buffer)(struct context *, struct delegate *, int *);
    long flags;
    void *builder;
};

static int claim_nothing(struct context *context, struct delegate *delegate) { return 0; }

static int crash(struct context *context, struct delegate *delegate) {
    fprintf(stderr, "test delegate: register 0x40 reads zero\n");
    volatile int *nowhere = 0;
    return *nowhere;
}

struct delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values, size_t count,
                                               void (*report)(const char *)) {
    struct delegate *made = calloc(1, sizeof *made + 64);
    made->prepare = claim_nothing;
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(keys[i], "mode") && !strcmp(values[i], "crash")) made->prepare = crash;
        if (!strcmp(keys[i], "mode") && !strcmp(values[i], "fail")) {
            report("no accelerator on the bus");
            return 0;
        }
    }
    return made;
}

void tflite_plugin_destroy_delegate(struct delegate *made) { free(made); }
